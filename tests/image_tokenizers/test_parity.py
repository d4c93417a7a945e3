"""Every stage against the published PyTorch code, on weights that are all random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.golden.random_tensors import random_images
from tests.image_tokenizers.tiny_tokenizers import (
    AUTOENCODER,
    CHAMELEON,
    SIZES,
    TOKENIZERS,
    VAE,
    golden_arrays,
    golden_parameters,
    tiny_parameters,
    tiny_stages,
)
from unimod_jax.convert import autoencoder_kl, chameleon_vqgan, magvit_v2
from unimod_jax.image_tokenizers import MagvitV2Config

TOLERANCE = 1e-5


def assert_near(ours: jax.Array, theirs: np.ndarray) -> None:
    """Within 1e-5 of the largest value, and the reference's values are not small."""
    largest = np.abs(theirs).max()
    assert ours.shape == theirs.shape and largest > 0.1
    assert np.abs(np.asarray(ours) - theirs).max() < TOLERANCE * max(1, largest)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("index", range(len(SIZES)))
def test_latents_codes_and_pixels_are_the_reference(name: str, index: int):
    golden = golden_arrays(name)
    image = jnp.asarray(random_images((*SIZES[index], 3)))
    theirs = jnp.asarray(golden[f"code_{index}"])
    latent, code, pixel = tiny_stages(name)(tiny_parameters(name), image, theirs)
    assert_near(latent, golden[f"latent_{index}"])
    assert code.dtype == jnp.int32
    np.testing.assert_array_equal(code, theirs)
    assert_near(pixel, golden[f"pixel_{index}"])


def test_transformers_chameleon_has_what_encoding_needs():
    golden = golden_arrays("chameleon_vqgan")
    whole = flatten_dict(tiny_parameters("chameleon_vqgan"))
    part = chameleon_vqgan.encoder_weight_map(CHAMELEON)
    params = unflatten_dict({path: whole[path] for path in part})
    assert "decoder" not in params
    image = jnp.asarray(random_images((*SIZES[1], 3)))
    code = jax.jit(TOKENIZERS["chameleon_vqgan"].tokenizer.encode)(params, image)
    np.testing.assert_array_equal(code, golden["code_1"])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_golden_codes_are_many(name: str):
    """A reference that gives one id to everything would prove nothing."""
    assert np.unique(golden_arrays(name)["code_0"]).size >= 8


@pytest.mark.parametrize("index", range(len(SIZES)))
def test_the_vae_is_the_reference(index: int):
    params = golden_parameters(autoencoder_kl.weight_map(VAE))
    golden = golden_arrays("autoencoder_kl")
    image = jnp.asarray(random_images((*SIZES[index], 3)))
    latent = jax.jit(AUTOENCODER.encode)(params, image)
    assert_near(latent.mean_BYXZ, golden[f"mean_{index}"])
    assert_near(latent.log_variance_BYXZ, golden[f"log_variance_{index}"])
    mean = jnp.asarray(golden[f"mean_{index}"])
    pixel = jax.jit(AUTOENCODER.decode)(params, mean)
    assert_near(pixel, golden[f"pixel_{index}"])


def test_what_the_file_derives_from_the_bits_is_given_back():
    golden = golden_arrays("magvit_v2")
    derived = magvit_v2.derived_tensors(MagvitV2Config(bits=5))
    for name, tensor in derived.items():
        np.testing.assert_array_equal(tensor, golden[name])
        assert tensor.dtype == golden[name].dtype
