"""Classifier-free guidance: with prompts, with their images alone, and without."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import SIZES, random_group
from tests.task_rows import layouts
from unimod_jax.generation import GuidedRows, without_text
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedDocument,
    Span,
    SpecialTokens,
    Stream,
)
from unimod_jax.objectives import NextToken


@pytest.fixture(scope="module")
def three_sets():
    streams = (Stream.of(TEXT), Stream.of(IMAGE))
    layout = layouts(NextToken(), SIZES, streams)["text_to_image"]
    return [random_group(layout, 3, seed) for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def prompted_and_unprompted(three_sets):
    return three_sets[:2]


def test_scale_one_runs_the_prompted_rows_only(prompted_and_unprompted):
    prompted, unprompted = prompted_and_unprompted
    guided = GuidedRows.pair(prompted, unprompted, 1.0)
    assert guided.rows is prompted
    assert guided.num_images == 3
    values = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(guided.combine(values), values)
    np.testing.assert_array_equal(guided.mirror(values), values)


def test_other_scales_run_both_prompted_rows_first(prompted_and_unprompted):
    prompted, unprompted = prompted_and_unprompted
    guided = GuidedRows.pair(prompted, unprompted, 3.0)
    assert guided.num_images == 3
    assert guided.rows.num_rows == 6
    assert guided.rows.layout is prompted.layout
    for name in (TEXT, IMAGE):
        both = guided.rows.streams[name].token_id_BT
        np.testing.assert_array_equal(both[:3], prompted.streams[name].token_id_BT)
        np.testing.assert_array_equal(both[3:], unprompted.streams[name].token_id_BT)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 5.0), (2.0, -3.0), (7.5, -25.0)])
def test_guidance_extrapolates_from_without_to_with(
    prompted_and_unprompted, scale, expected
):
    # With the prompt 1, without it 5: 5 + scale * (1 - 5).
    guided = GuidedRows.pair(*prompted_and_unprompted, scale)
    values = jnp.asarray([1.0, 1.0, 1.0, 5.0, 5.0, 5.0])
    np.testing.assert_allclose(guided.combine(values), expected)


def test_both_halves_are_filled_with_the_same_tokens_or_the_second_with_others(
    prompted_and_unprompted,
):
    guided = GuidedRows.pair(*prompted_and_unprompted, 2.0)
    first, second = jnp.asarray([7, 8, 9]), jnp.asarray([4, 5, 6])
    np.testing.assert_array_equal(guided.mirror(first), [7, 8, 9, 7, 8, 9])
    np.testing.assert_array_equal(guided.mirror(first, second), [7, 8, 9, 4, 5, 6])


def instructed(logits, text_scale, image_scale):
    """The formula of 2211.09800 as Chameleon has it, on three sets of rows."""
    full, image_conditioned, unconditioned = np.split(logits, 3)
    return (
        unconditioned
        + image_scale * (image_conditioned - unconditioned)
        + text_scale * (full - image_conditioned)
    )


def test_text_and_images_of_a_prompt_have_scales_of_their_own(three_sets):
    guided = GuidedRows.triple(*three_sets, text_scale=3.0, image_scale=1.2)
    assert (guided.num_images, guided.rows.num_rows) == (3, 9)
    for index, rows in enumerate(three_sets):
        of_set = guided.rows.streams[TEXT].token_id_BT[3 * index : 3 * index + 3]
        np.testing.assert_array_equal(of_set, rows.streams[TEXT].token_id_BT)
    # 7 + 1.2 * (5 - 7) + 3 * (1 - 5)
    values = jnp.repeat(jnp.asarray([1.0, 5.0, 7.0]), 3)
    np.testing.assert_allclose(guided.combine(values), [-7.4] * 3, rtol=1e-6)
    logits = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_allclose(
        guided.combine(jnp.asarray(logits)), instructed(logits, 3.0, 1.2), rtol=1e-5
    )
    np.testing.assert_array_equal(guided.complete(logits), logits[:3])
    np.testing.assert_array_equal(
        guided.mirror(jnp.asarray([7, 8, 9])), [7, 8, 9, 7, 8, 9, 7, 8, 9]
    )


def test_without_images_in_the_prompt_the_scale_of_the_text_remains(three_sets):
    prompted, unprompted, _ = three_sets
    triple = GuidedRows.triple(prompted, unprompted, unprompted, 3.0, 1.2)
    pair = GuidedRows.pair(prompted, unprompted, 3.0)
    # Equal rows have equal logits.
    with_BV, without_BV = np.random.default_rng(0).normal(size=(2, 3, 4))
    three = jnp.asarray(np.concatenate([with_BV, without_BV, without_BV]))
    two = jnp.asarray(np.concatenate([with_BV, without_BV]))
    np.testing.assert_array_equal(triple.combine(three), pair.combine(two))


def test_what_a_last_scale_of_one_makes_superfluous_is_not_run(three_sets):
    prompted, images_only, unprompted = three_sets
    pair = GuidedRows.pair(prompted, images_only, 3.0)
    triple = GuidedRows.triple(prompted, images_only, unprompted, 3.0, 1.0)
    assert triple.scales == pair.scales == (3.0,)
    assert triple.rows.num_rows == 6
    assert GuidedRows.triple(*three_sets, 1.0, 1.0).rows is prompted
    # The images alone are guided: the text's scale is needed, though it is 1.
    assert GuidedRows.triple(*three_sets, 1.0, 1.2).rows.num_rows == 9


def test_a_prompt_without_text_keeps_its_images_and_their_markers():
    special = SpecialTokens()
    image = Span(IMAGE, [16, 17])
    prompt = InterleavedDocument(
        (
            Span(TEXT, [special.begin, 12, special.begin_image]),
            image,
            Span(TEXT, [special.end_image, 13, special.begin_speech]),
            Span(SPEECH, [20]),
            Span(TEXT, [special.end_speech, 12, special.begin_image]),
        )
    )
    left = without_text(prompt, special).spans
    assert [(span.modality, list(span.tokens)) for span in left] == [
        (TEXT, [special.begin, special.begin_image]),
        (IMAGE, [16, 17]),
        (TEXT, [special.end_image]),
        (TEXT, [special.begin_image]),
    ]
    assert left[1] is image
