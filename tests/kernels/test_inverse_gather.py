"""Values and gradients against plain NumPy and autodiff, and no scatter anywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.inverse_gather import gather, inverse_gather
from unimod_jax.mod import pack, select_top_k
from unimod_jax.mot.expert_choice import expert_choice

ROWS, TOKENS, WIDTH = 2, 6, 3


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def permutation():
    rng = np.random.default_rng(3)
    index = np.stack([rng.permutation(TOKENS) for _ in range(ROWS)])
    return index, np.argsort(index, axis=1), "promise_in_bounds"


def partial_selection():
    chosen = select_top_k(
        jnp.asarray(drawn(ROWS, TOKENS)), jnp.ones((ROWS, TOKENS), bool), 0.4, 3
    )
    return chosen.index_BC, chosen.slot_BT, "fill"


def overflow():
    """Three places; the rows want two and five of six tokens."""
    wanted = jnp.asarray([[0, 1, 0, 0, 1, 0], [1, 1, 0, 1, 1, 1]], bool)
    chosen = pack(wanted, 3)
    assert int(chosen.index_BC[0, 2]) == TOKENS  # a place that nothing fills
    return chosen.index_BC, chosen.slot_BT, "fill"


def nothing_kept():
    chosen = pack(jnp.zeros((ROWS, TOKENS), bool), 2)
    return chosen.index_BC, chosen.slot_BT, "fill"


MAPS = (permutation, partial_selection, overflow, nothing_kept)


def by_loops(x, index):
    """Place by place; zeros where the index is past the end."""
    y = np.zeros((*index.shape, *x.shape[index.ndim :]), x.dtype)
    for place in np.ndindex(*index.shape):
        *row, token = *place[:-1], int(index[place])
        row = [r if x.shape[axis] > 1 else 0 for axis, r in enumerate(row)]
        if token < x.shape[index.ndim - 1]:
            y[place] = x[(*row, token)]
    return y


def by_autodiff(x, index):
    aligned = jnp.asarray(index).reshape(index.shape + (1,) * (x.ndim - index.ndim))
    return jnp.take_along_axis(
        x, aligned, axis=index.ndim - 1, mode="fill", fill_value=0
    )


def check(x, index, inverse, bounds):
    index, inverse = (jnp.asarray(m, jnp.int32) for m in (index, inverse))
    moved, pull = jax.vjp(lambda x: inverse_gather(x, index, inverse, bounds), x)
    expected, expected_pull = jax.vjp(lambda x: by_autodiff(x, index), x)
    np.testing.assert_array_equal(moved, by_loops(np.asarray(x), np.asarray(index)))
    np.testing.assert_array_equal(moved, expected)
    cotangent = jnp.asarray(drawn(*moved.shape, seed=1))
    np.testing.assert_allclose(
        pull(cotangent)[0], expected_pull(cotangent)[0], rtol=1e-6
    )
    assert "scatter" in str(jax.make_jaxpr(expected_pull)(cotangent))
    program = str(jax.make_jaxpr(pull)(cotangent))
    assert "gather" in program and "scatter" not in program


@pytest.mark.parametrize("features", [(), (WIDTH,), (2, WIDTH)], ids=len)
@pytest.mark.parametrize("make", MAPS, ids=lambda make: make.__name__)
def test_values_are_numpys_and_gradients_are_autodiffs(make, features):
    index, inverse, bounds = make()
    check(jnp.asarray(drawn(ROWS, TOKENS, *features)), index, inverse, bounds)
    places = index.shape[1]
    check(jnp.asarray(drawn(ROWS, places, *features)), inverse, index, bounds)


@given(st.lists(st.booleans(), min_size=TOKENS, max_size=TOKENS), st.integers(1, 7))
@settings(max_examples=25, deadline=None)
def test_any_selection_of_any_capacity_is_moved_both_ways(wanted, capacity):
    chosen = pack(jnp.asarray([wanted], bool), capacity)
    maps = (chosen.index_BC, chosen.slot_BT)
    check(jnp.asarray(drawn(1, TOKENS, WIDTH)), *maps, "fill")
    check(jnp.asarray(drawn(1, capacity, WIDTH)), *maps[::-1], "fill")


@pytest.mark.parametrize("num_experts", [1, 3, 4])
def test_tokens_that_experts_share_get_the_sum_of_their_gradients(num_experts):
    score = jax.nn.softmax(jnp.asarray(drawn(ROWS, TOKENS, num_experts)))
    index, place, _ = expert_choice(score, jnp.ones((ROWS, TOKENS), bool))
    check(jnp.asarray(drawn(ROWS, 1, TOKENS, WIDTH)), index, place, "fill")
    said = jnp.asarray(drawn(ROWS, num_experts, index.shape[-1], WIDTH))
    check(said, place, index, "fill")


def test_positions_are_moved_as_tokens_are_and_need_no_gradient():
    index, inverse, bounds = overflow()
    position = jnp.arange(ROWS * TOKENS, dtype=jnp.int32).reshape(ROWS, TOKENS)
    moved = inverse_gather(position, index, inverse, bounds)
    np.testing.assert_array_equal(moved, [[1, 4, 0], [6, 7, 9]])
    np.testing.assert_array_equal(gather(position, index), moved)
    assert moved.dtype == jnp.int32
