"""Each objective draws images by its own loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.known_output import output_with
from tests.models.tiny_model import (
    CODE_IDS,
    PATCH_SIZE,
    SIZES,
    TEXT_IDS,
    VOCABULARY_SIZE,
    random_group,
)
from tests.task_rows import layouts
from unimod_jax.generation import (
    GuidedRows,
    SamplingConfig,
    TokenSampler,
    decode_segment,
    draw_images,
)
from unimod_jax.generation.generate import ImageCodes
from unimod_jax.layout import IMAGE, TEXT, Stream
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken

LINED = dataclasses.replace(SIZES, image_line=2)
STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
CODES = ImageCodes(CODE_IDS.start, len(CODE_IDS), VOCABULARY_SIZE)


class FlatModel:
    """Every id equally likely, no noise anywhere, nothing to remember."""

    def __call__(self, group):
        shapes = {name: s.position_BT.shape for name, s in group.streams.items()}
        return output_with(
            {n: jnp.zeros((*shape, VOCABULARY_SIZE)) for n, shape in shapes.items()},
            {IMAGE: jnp.zeros((*shapes[IMAGE], PATCH_SIZE))},
        )

    def empty_caches(self, layout, num_rows):
        return []

    def extend_to_last(self, group, caches):
        return jnp.zeros((group.num_rows, VOCABULARY_SIZE)), caches


def draw(objective, guided=None, num_steps=3):
    if guided is None:
        layout = layouts(objective, SIZES, STREAMS)["text_to_image"]
        guided = GuidedRows(random_group(layout, 4))
    sampling = SamplingConfig(num_steps=num_steps)
    return draw_images(
        objective, FlatModel(), guided, "image", sampling, CODES, jax.random.key(0)
    )


@pytest.mark.parametrize("objective", [NextToken(), MaskedImage()])
def test_code_objectives_draw_codes_counted_from_zero(objective):
    codes = np.asarray(draw(objective))
    assert codes.shape == (4, SIZES.image_codes)
    assert codes.dtype == np.int32
    assert codes.min() >= 0
    assert codes.max() < len(CODE_IDS)
    assert len(np.unique(codes)) > 3


def test_line_ends_are_no_codes():
    layout = layouts(NextToken(), LINED, STREAMS)["text_to_image"]
    codes = np.asarray(draw(NextToken(), GuidedRows(random_group(layout, 4))))
    assert codes.shape == (4, SIZES.image_codes)
    assert codes.min() >= 0
    assert codes.max() < len(CODE_IDS)


def test_sampling_settings_reach_the_sampler():
    sampling = SamplingConfig(temperature=0.7, top_k=5, top_p=0.9)
    assert sampling.codes == TokenSampler(0.7, 5, 0.9)
    assert sampling.words == TokenSampler(temperature=0.0)
    sampling = SamplingConfig(
        text_temperature=0.6, text_top_p=0.8, repetition_penalty=1.2
    )
    assert sampling.codes == TokenSampler()
    assert sampling.words == TokenSampler(0.6, 0, 0.8, 1.2)


def test_captions_are_greedy_unless_they_are_to_be_sampled():
    layout = layouts(NextToken(), SIZES, STREAMS)["image_to_text"]
    rows = GuidedRows(random_group(layout, 4))
    is_word = np.isin(np.arange(VOCABULARY_SIZE), TEXT_IDS)

    def captions(seed, **sampling):
        key, config = jax.random.key(seed), SamplingConfig(**sampling)
        caption = ("caption", is_word, config.words, key)
        return np.asarray(decode_segment(FlatModel(), rows, *caption))

    np.testing.assert_array_equal(captions(0), TEXT_IDS[0])
    first, again, other = (captions(n, text_temperature=1.0) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert is_word[first].all() and len(np.unique(first)) == len(TEXT_IDS)


def test_diffusion_draws_patches():
    patches = draw(ImageDiffusion())
    assert patches.shape == (4, SIZES.image_patches, PATCH_SIZE)
    assert patches.dtype == jnp.float32
    assert np.isfinite(patches).all()


def test_an_objective_without_a_procedure_is_refused_by_name():
    class Autoencoder:
        pass

    with pytest.raises(TypeError, match=r"known for Autoencoder; register one with"):
        draw(Autoencoder(), guided=object())


def test_image_codes_are_the_ids_from_start_on():
    allowed = ImageCodes(start=3, count=2, vocabulary_size=6).allowed()
    np.testing.assert_array_equal(allowed, [0, 0, 0, 1, 1, 0])
