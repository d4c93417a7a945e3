"""Codes from latents: by the nearest vector, and by signs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unimod_jax.image_tokenizers.codebook import (
    LATENTS_AT_ONCE,
    bits_to_code,
    code_to_bits,
    nearest_code,
)


@pytest.mark.parametrize("latents", [1, 7, LATENTS_AT_ONCE, LATENTS_AT_ONCE + 5])
def test_the_nearest_code_is_the_nearest_in_float64(latents: int):
    random = np.random.default_rng(latents)
    latent = random.standard_normal((latents, 4)).astype(np.float32)
    codebook = random.standard_normal((300, 4)).astype(np.float32)
    distance = np.square(
        latent[:, None].astype(np.float64) - codebook[None].astype(np.float64)
    ).sum(-1)
    near = np.sort(distance, axis=1)
    decided = near[:, 1] - near[:, 0] > 1e-5
    assert decided.mean() > 0.9
    code = np.asarray(nearest_code(jnp.asarray(latent), jnp.asarray(codebook)))
    assert code.dtype == np.int32
    np.testing.assert_array_equal(code[decided], distance.argmin(1)[decided])


def test_of_equally_near_codes_the_first_is_taken():
    codebook = jnp.asarray([[3.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 1.0]])
    latent = jnp.asarray([[0.0, 0.0], [0.0, 0.9]])
    assert nearest_code(latent, codebook).tolist() == [1, 1]


def test_the_distances_of_all_latents_never_exist_at_once():
    latents, codes = 8 * LATENTS_AT_ONCE, 4096
    all_distances = 4 * latents * codes
    compiled = (
        jax.jit(nearest_code)
        .lower(
            jax.ShapeDtypeStruct((latents, 4), jnp.float32),
            jax.ShapeDtypeStruct((codes, 4), jnp.float32),
        )
        .compile()
    )
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < all_distances / 2


def test_channel_zero_is_the_most_significant_bit():
    latent = jnp.asarray([[2.0, -1.0, -0.1], [-3.0, 0.5, 1e-9], [0.0, 0.0, 0.0]])
    assert bits_to_code(latent).tolist() == [0b100, 0b011, 0b000]
    signs = [[1, -1, -1], [-1, 1, 1]]
    assert code_to_bits(jnp.asarray([0b100, 0b011]), 3).tolist() == signs


@pytest.mark.parametrize("bits", [1, 5, 13])
def test_every_code_survives_its_bits(bits: int):
    code = jnp.arange(2**bits, dtype=jnp.int32)
    signs = code_to_bits(code, bits)
    assert signs.shape == (2**bits, bits)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    np.testing.assert_array_equal(bits_to_code(signs), code)
    # Only the sign counts.
    np.testing.assert_array_equal(bits_to_code(signs * 1e-3), code)
