"""Latents have no bound, so sampling leaves them as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unimod_jax.generation.diffusion_sampler import ancestral_sampling
from unimod_jax.objectives.image_diffusion import signal_share


@pytest.mark.parametrize(
    ("largest_value", "reached"), [(0.0, 6.0), (1.0, 1.0), (4.0, 4.0)]
)
def test_clean_patches_are_clipped_to_the_largest_value(largest_value, reached):
    clean_BNP = jnp.asarray([[[6.0, -6.0], [0.5, 0.0]]])

    def predict_noise(patch_BNP, time):
        share = signal_share(time)
        return (patch_BNP - jnp.sqrt(share) * clean_BNP) / jnp.sqrt(1.0 - share)

    drawn = ancestral_sampling(
        predict_noise, clean_BNP.shape, 20, jax.random.key(0), largest_value
    )
    np.testing.assert_allclose(
        drawn, [[[reached, -reached], [0.5, 0.0]]], atol=1e-3, rtol=0
    )
