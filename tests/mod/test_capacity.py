"""Capacities are static whole numbers."""

import math

import hypothesis
import pytest
from hypothesis import strategies as st

from unimod_jax.mod import capacity


@pytest.mark.parametrize(
    ("keep_ratio", "num_tokens", "kept"),
    [
        (1.0, 7, 7),
        (0.5, 7, 4),
        (0.2, 15, 3),  # 0.2 * 15 is 3.0000000000000004
        (0.7, 10, 7),
        (0.001, 10, 1),
        (0.4, 1, 1),
        (0.0, 10, 0),  # the task skips the layer
    ],
)
def test_capacity_rounds_up_and_keeps_at_least_one(keep_ratio, num_tokens, kept):
    assert capacity(keep_ratio, num_tokens) == kept


@hypothesis.given(st.integers(1, 100), st.integers(1, 5000))
def test_percentages_are_rounded_exactly(percent, num_tokens):
    exact = -(-percent * num_tokens // 100)
    assert capacity(percent / 100, num_tokens) == max(1, exact)
    assert capacity(percent / 100, num_tokens) <= num_tokens


@pytest.mark.parametrize("keep_ratio", [-0.5, 1.01, math.nan])
def test_a_ratio_that_is_no_share_is_refused(keep_ratio):
    with pytest.raises(ValueError, match=rf"keep_ratio is {keep_ratio}, .*\[0, 1\]"):
        capacity(keep_ratio, 10)
