"""Bounds never hide a visible pair, and in sequence order hide almost all others."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.routed_attention.block_bounds import (
    BlockMap,
    block_map,
    block_schedule,
)
from tests.kernels.attention_cases import packed_documents, random_visibility


def exact_visible(start, end, position):
    position_B1S = position[:, None]
    inside = (start[..., None] <= position_B1S) & (position_B1S < end[..., None])
    return inside & (position_B1S >= 0)


def pairs_of_blocks(visible_BTS, query_block, key_block):
    """Any and all of each block of a T x S matrix, one by one."""
    num_rows, num_queries, num_keys = visible_BTS.shape
    shape = (num_rows, -(-num_queries // query_block), -(-num_keys // key_block))
    some, every = np.zeros(shape, bool), np.zeros(shape, bool)
    for row, n, m in np.ndindex(shape):
        queries = slice(n * query_block, (n + 1) * query_block)
        keys = slice(m * key_block, (m + 1) * key_block)
        block = visible_BTS[row, queries, keys]
        some[row, n, m], every[row, n, m] = block.any(), block.all()
    return some, every


def bounds(visibility, query_block, key_block):
    arrays = (jnp.asarray(x, jnp.int32) for x in visibility)
    return block_map(*arrays, query_block=query_block, key_block=key_block)


@hypothesis.given(
    seed=st.integers(0, 2**16),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    blocks=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    share_of_padding=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_no_visible_pair_is_hidden_and_no_hidden_pair_is_whole(
    seed, sizes, blocks, share_of_padding
):
    visibility = random_visibility(seed, 2, *sizes)
    is_padding = np.random.default_rng(seed).random(visibility.key_position.shape)
    visibility.key_position[is_padding < share_of_padding] = -1
    visibility.window_start[0] -= 3
    some, every = pairs_of_blocks(exact_visible(*visibility), *blocks)
    pairs = bounds(visibility, *blocks)
    assert np.all(some <= np.asarray(pairs.visible_BNM))
    assert np.all(np.asarray(pairs.whole_BNM) <= every)
    assert np.all(np.asarray(pairs.whole_BNM) <= np.asarray(pairs.visible_BNM))


@pytest.mark.parametrize("block", [4, 8])
def test_bounds_are_exact_for_packed_documents_in_sequence_order(block):
    visibility = packed_documents([20, 9, 35], [(4, 15), (40, 60)])
    some, every = pairs_of_blocks(exact_visible(*visibility), block, block)
    pairs = bounds(visibility, block, block)
    np.testing.assert_array_equal(pairs.visible_BNM, some)
    np.testing.assert_array_equal(pairs.whole_BNM, every)


def test_a_block_with_an_empty_window_is_visited_for_the_others_and_masked():
    start, end = np.array([[0, 3, 0, 0]]), np.array([[4, 3, 4, 4]])
    position = np.array([[0, 1, 2, 3, -1, -1]])
    pairs = bounds((start, end, position), query_block=2, key_block=2)
    np.testing.assert_array_equal(pairs.visible_BNM, [[[1, 1, 0], [1, 1, 0]]])
    np.testing.assert_array_equal(pairs.whole_BNM, [[[0, 0, 0], [1, 1, 0]]])


def test_padding_to_whole_blocks_leaves_the_bounds_alone():
    start, end = np.array([[0, 0, 0]]), np.array([[3, 3, 3]])
    pairs = bounds((start, end, np.array([[0, 1, 2]])), query_block=2, key_block=2)
    np.testing.assert_array_equal(pairs.visible_BNM, np.ones((1, 2, 2)))
    np.testing.assert_array_equal(pairs.whole_BNM, [[[1, 0], [1, 0]]])


def test_a_schedule_lists_whole_blocks_then_partial_ones_in_order():
    visible = np.array([[[1, 0, 1, 1, 1], [0, 0, 0, 0, 0]]], bool)
    whole = np.array([[[0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]], bool)
    schedule = block_schedule(BlockMap(jnp.asarray(visible), jnp.asarray(whole)))
    np.testing.assert_array_equal(schedule.inner_BOI[0, 0], [2, 4, 0, 3, 1])
    np.testing.assert_array_equal(schedule.num_whole_BO, [[2, 0]])
    np.testing.assert_array_equal(schedule.num_visited_BO, [[4, 0]])


def test_the_transposed_map_schedules_queries_for_each_block_of_keys():
    visible = np.array([[[1, 0], [1, 1], [0, 1]]], bool)
    pairs = BlockMap(jnp.asarray(visible), jnp.zeros_like(visible)).transposed()
    schedule = block_schedule(pairs)
    np.testing.assert_array_equal(schedule.num_visited_BO, [[2, 2]])
    np.testing.assert_array_equal(schedule.inner_BOI[0, :, :2], [[0, 1], [1, 2]])
