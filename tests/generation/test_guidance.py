"""Classifier-free guidance: with prompts, without, and in between."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import SIZES, random_group
from unimod_jax.generation import GuidedRows
from unimod_jax.layout import IMAGE, TEXT, Stream
from unimod_jax.objectives import TEXT_TO_IMAGE, NextToken


@pytest.fixture(scope="module")
def prompted_and_unprompted():
    streams = (Stream.of(TEXT), Stream.of(IMAGE))
    layout = NextToken().layouts(SIZES, streams)[TEXT_TO_IMAGE]
    return [random_group(layout, 3, seed) for seed in (0, 1)]


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


def test_both_halves_are_filled_with_the_same_tokens(prompted_and_unprompted):
    guided = GuidedRows.pair(*prompted_and_unprompted, 2.0)
    np.testing.assert_array_equal(
        guided.mirror(jnp.asarray([7, 8, 9])), [7, 8, 9, 7, 8, 9]
    )
