"""Rotary positions: a rotation by the position, so scores know differences only."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from unimod_jax.layout import apply_rotary, rotary_phase

THETA = 100.0


def rotated(x_BTHE, positions):
    position_BT = jnp.asarray(positions, jnp.int32)[None]
    return apply_rotary(x_BTHE, rotary_phase(position_BT, x_BTHE.shape[-1], THETA))


def test_rotation_is_complex_multiplication_of_half_split_pairs():
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 8)).astype(np.float32)
    positions = np.array([0, 7, 3])
    angle = positions[:, None] * THETA ** -(np.arange(4) / 4)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angle)[None, :, None]
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(
        rotated(jnp.asarray(x), positions), expected, rtol=1e-5, atol=1e-5
    )


@hypothesis.given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 300))
def test_scores_depend_on_position_differences_only(query, key, shift):
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    score = jnp.sum(rotated(q, [query]) * rotated(k, [key]))
    moved = jnp.sum(rotated(q, [query + shift]) * rotated(k, [key + shift]))
    np.testing.assert_allclose(score, moved, atol=2e-4)


def test_scores_do_depend_on_position_differences():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    near = jnp.sum(rotated(q, [5]) * rotated(k, [4]))
    far = jnp.sum(rotated(q, [5]) * rotated(k, [1]))
    assert abs(near - far) > 0.1


def test_rotation_preserves_norms_and_leaves_position_zero_alone():
    x = jax.random.normal(jax.random.key(1), (1, 4, 2, 8))
    turned = rotated(x, [0, 1, 50, -1])
    np.testing.assert_allclose(
        jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5
    )
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])


def test_rotation_keeps_the_dtype_of_the_heads():
    x = jnp.ones((1, 2, 1, 4), jnp.bfloat16)
    chex.assert_trees_all_equal_dtypes(rotated(x, [0, 1]), x)


def test_a_shorter_phase_turns_the_first_dimensions_as_a_smaller_head():
    x = jax.random.normal(jax.random.key(2), (1, 3, 2, 10))
    phase = rotary_phase(jnp.asarray([[0, 7, 3]], jnp.int32), 4, THETA)
    turned = apply_rotary(x, phase)
    np.testing.assert_array_equal(turned[..., :4], rotated(x[..., :4], [0, 7, 3]))
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    assert np.abs(turned[:, 1:, :, :4] - x[:, 1:, :, :4]).min(axis=-1).max() > 0.1


def test_an_odd_number_of_dimensions_cannot_turn():
    with pytest.raises(ValueError, match=r"rotated_dim 5 is odd"):
        rotary_phase(jnp.zeros((1, 1), jnp.int32), 5, THETA)


def test_a_head_cannot_turn_more_dimensions_than_it_has():
    phase = rotary_phase(jnp.zeros((1, 1), jnp.int32), 8, THETA)
    with pytest.raises(ValueError, match=r"turns 8 dimensions but a head has 6"):
        apply_rotary(jnp.zeros((1, 1, 1, 6)), phase)
