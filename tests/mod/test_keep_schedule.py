"""How the keep ratio runs over the routed layers."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from unimod_jax.mod import keep_ratios
from unimod_jax.mod.keep_schedule import constant, cosine, in_levels, linear

# 2502.06474, section 5.1: Show-o's last twelve layers, "from 1 down to 0.2".
UNIMOD_RAMP = "1.000 0.927 0.855 0.782 0.709 0.636 0.564 0.491 0.418 0.345 0.273 0.200"
SHAPES = st.sampled_from([linear, cosine])
RATIOS = st.floats(0.0, 1.0)


def test_unimods_ramp_has_both_endpoints_and_a_mean_of_exactly_0_6():
    ramp = linear(12, 1.0, 0.2)
    assert " ".join(f"{ratio:.3f}" for ratio in ramp) == UNIMOD_RAMP
    assert math.fsum(ramp) / 12 == pytest.approx(0.6, abs=1e-12)


def test_the_half_cosine_is_flat_at_its_ends():
    # p-MoD (2412.04449): cos(pi l / (L - 1)) / 2 + 0.5 over layers l.
    ratios = cosine(32, 1.0, 0.0)
    expected = np.cos(np.pi * np.arange(32) / 31) / 2 + 0.5
    np.testing.assert_allclose(ratios, expected, atol=1e-8)
    assert math.fsum(cosine(12, 1.0, 0.2)) / 12 == pytest.approx(0.6, abs=1e-9)


@hypothesis.given(SHAPES, st.integers(2, 40), RATIOS, RATIOS)
def test_a_schedule_is_monotonic_between_its_endpoints(shape, num_layers, first, last):
    ratios = shape(num_layers, first, last)
    assert len(ratios) == num_layers
    assert ratios[0] == pytest.approx(first, abs=1e-9)
    assert ratios[-1] == pytest.approx(last, abs=1e-9)
    assert all(0.0 <= ratio <= 1.0 for ratio in ratios)
    steps = np.diff(ratios) * (1 if last >= first else -1)
    assert (steps >= -1e-9).all()


@hypothesis.given(SHAPES, st.integers(1, 40), st.sampled_from([0.1, 0.3, 0.8, 1.0]))
def test_equal_endpoints_are_the_same_number_in_each_layer(shape, num_layers, ratio):
    # Equal layers are one run; 0.30000000000000004 would be a run of its own.
    assert shape(num_layers, ratio, ratio) == constant(num_layers, ratio)


def test_unimods_ramp_in_four_levels():
    # Three neighbours each: the mean of 1, 0.927, 0.855 and so on down.
    stair = in_levels(linear(12, 1.0, 0.2), 4)
    expected = [level for level in (102, 78, 54, 30) for _ in range(3)]
    np.testing.assert_allclose(stair, np.array(expected) / 110, atol=1e-9)


@hypothesis.given(SHAPES, st.integers(1, 40), RATIOS, RATIOS, st.integers(0, 50))
def test_a_stair_has_the_mean_of_its_schedule(shape, num_layers, first, last, levels):
    ratios = shape(num_layers, first, last)
    stair = in_levels(ratios, levels)
    assert math.fsum(stair) == pytest.approx(math.fsum(ratios), abs=1e-9 * num_layers)
    assert min(ratios) - 1e-9 <= min(stair) <= max(stair) <= max(ratios) + 1e-9
    assert (np.diff(stair) * (1 if last >= first else -1) >= 0).all()
    assert len(set(stair)) <= (levels or num_layers)
    runs = [len(list(group)) for _, group in itertools.groupby(stair)]
    assert len(runs) == len(set(stair))


def test_groups_of_a_stair_are_as_equal_as_they_can_be():
    assert in_levels((0.9, 0.8, 0.6, 0.4, 0.2), 2) == (0.85, 0.85, 0.4, 0.4, 0.4)
    assert in_levels((0.9, 0.5), 1) == (0.7, 0.7)


def test_no_levels_or_as_many_as_layers_leave_a_schedule_as_it_is():
    ramp = linear(12, 1.0, 0.2)
    assert in_levels(ramp, 0) == in_levels(ramp, 12) == in_levels(ramp, 99) == ramp
    with pytest.raises(ValueError, match=r"levels is -1.*or 0 for"):
        in_levels(ramp, -1)


@pytest.mark.parametrize("shape", [linear, cosine])
def test_one_layer_alone_keeps_what_the_deepest_layer_keeps(shape):
    assert shape(1, 1.0, 0.2) == (0.2,)
    assert shape(0, 1.0, 0.2) == ()


def test_a_schedule_is_found_by_name_and_none_is_constant():
    assert keep_ratios("linear", 4, 1.0, 0.2) == linear(4, 1.0, 0.2)
    assert keep_ratios("cosine", 4, 1.0, 0.2) == cosine(4, 1.0, 0.2)
    assert keep_ratios("linear", 3, 0.8) == (0.8, 0.8, 0.8)
    assert keep_ratios("linear", 2, 0.8, 0.0) == (0.8, 0.0)
    stair = keep_ratios("linear", 4, 1.0, 0.2, levels=2)
    assert stair == in_levels(linear(4, 1.0, 0.2), 2)
    with pytest.raises(ValueError, match=r"'step' is not known.*'cosine', 'linear'"):
        keep_ratios("step", 4, 1.0, 0.2)
