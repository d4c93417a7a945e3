"""What every tokenizer promises: sizes, independence, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.random_tensors import random_images
from tests.image_tokenizers.tiny_tokenizers import (
    AUTOENCODER,
    TOKENIZERS,
    golden_arrays,
    tiny_parameters,
    tiny_stages,
)
from unimod_jax.image_tokenizers import (
    AutoencoderKl,
    Ladder,
    LatentDistribution,
    MagvitV2Config,
    MovqganConfig,
    chameleon_vqgan_tokenizer,
    magvit_v2_tokenizer,
    movqgan_tokenizer,
    sample_latent,
)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_images_of_a_batch_do_not_see_each_other(name: str):
    image = jnp.asarray(random_images((2, 16, 16, 3)))
    code = jnp.asarray(golden_arrays(name)["code_0"])
    other = image.at[1].set(-image[1])
    stages, params = tiny_stages(name), tiny_parameters(name)
    before = stages(params, image, code)
    after = stages(params, other, code.at[1].set(0))
    for one, same in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[0], same[0])
        assert (one[1] != same[1]).any()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_image_with_a_code_outside_is_not_a_number(name: str):
    image = jnp.asarray(random_images((2, 16, 16, 3)))
    code = jnp.asarray(golden_arrays(name)["code_0"])
    num_codes = TOKENIZERS[name].tokenizer.num_codes
    for outside in (-1, num_codes):
        wrong = code.at[1, 0, 0].set(outside)
        _, _, pixel = tiny_stages(name)(tiny_parameters(name), image, wrong)
        assert jnp.isfinite(pixel[0]).all() and jnp.isnan(pixel[1]).all()


@pytest.mark.parametrize(
    ("tokenizer", "num_codes", "codes_of_512"),
    [
        (chameleon_vqgan_tokenizer(), 8192, 32),
        (magvit_v2_tokenizer(), 8192, 32),
        (movqgan_tokenizer(), 32768, 64),
    ],
)
def test_the_published_sizes(tokenizer, num_codes: int, codes_of_512: int):
    assert tokenizer.num_codes == num_codes
    assert tokenizer.codes_per_side(512) == codes_of_512
    assert tokenizer.downsampling == 512 // codes_of_512
    assert tokenizer.sides_up_to(40)[-1] == 40 // tokenizer.downsampling * (
        tokenizer.downsampling
    )


def test_a_wide_image_has_a_wide_grid():
    assert movqgan_tokenizer().grid_of(360, 720) == (45, 90)
    assert AutoencoderKl().grid_of(256, 512) == (32, 64)
    assert AutoencoderKl().sides_up_to(24) == (8, 16, 24)


@pytest.mark.parametrize(
    "tokenizer", [chameleon_vqgan_tokenizer(), movqgan_tokenizer(), AutoencoderKl()]
)
@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 16, 100, 3), "float32", "100 pixels wide.*resize or crop"),
        ((1, 0, 16, 3), "float32", "0 pixels high"),
        ((16, 16, 3), "float32", r"must be float32 \[images, rows"),
        ((1, 3, 16, 16), "float32", r"must be float32 \[images, rows"),
        ((1, 16, 16, 3), "uint8", "scale uint8"),
    ],
)
def test_other_images_are_refused(tokenizer, shape, dtype: str, message: str):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode({}, jnp.zeros(shape, dtype))


def test_codes_that_are_no_grid_are_refused():
    for code in (jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 2, 2), jnp.float32)):
        with pytest.raises(ValueError, match="reshape each image to its grid"):
            chameleon_vqgan_tokenizer().decode({}, code)
    with pytest.raises(ValueError, match="put the channels last"):
        AUTOENCODER.decode({}, jnp.zeros((1, 4, 2, 2)))


def test_configurations_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="give both as many levels"):
        MagvitV2Config(decoder=Ladder((32, 32), (1, 1)))
    with pytest.raises(ValueError, match="make them equal"):
        MovqganConfig(code_width=8)


def test_samples_of_latents_have_the_mean_and_variance_they_should():
    shape = (1, 64, 64, 4)
    mean = jnp.full(shape, 2.0)
    latent = LatentDistribution(mean, jnp.full(shape, 2 * np.log(0.5), jnp.float32))
    sample = sample_latent(jax.random.key(0), latent)
    assert sample.shape == shape
    assert abs(float(sample.mean()) - 2) < 0.02
    assert abs(float(sample.std()) - 0.5) < 0.02
    other = sample_latent(jax.random.key(1), latent)
    assert (sample != other).any()
