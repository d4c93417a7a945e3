"""Which tokens a routed layer keeps, against NumPy."""

import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unimod_jax.mod import pack, select_above, select_top_k

ROWS, TOKENS = 3, 7
CAPACITIES = st.sampled_from([1, 4, 7])
MASKS = hnp.arrays(np.bool_, (ROWS, TOKENS))
# Few distinct values, so that ties are common.
SCORES = hnp.arrays(np.float32, (ROWS, TOKENS), elements=st.sampled_from([-1, 0, 0.5]))
ROOMS = hnp.arrays(np.int32, ROWS, elements=st.integers(0, TOKENS))

jit_pack = jax.jit(pack, static_argnums=1)
jit_top_k = jax.jit(select_top_k, static_argnums=(2, 3))
jit_above = jax.jit(select_above, static_argnums=3)


def keep_first(wanted_T, capacity):
    """The selection of one row in words: (index of each place, place of each token)."""
    kept = np.flatnonzero(wanted_T)[:capacity]
    index = np.full(capacity, len(wanted_T))
    index[: len(kept)] = kept
    slot = np.full(len(wanted_T), capacity)
    slot[kept] = np.arange(len(kept))
    return index, slot


@hypothesis.given(MASKS, CAPACITIES)
def test_pack_keeps_wanted_tokens_first_come_first_served(wanted_BT, capacity):
    selection = jit_pack(jnp.asarray(wanted_BT), capacity)
    for row in range(ROWS):
        index, slot = keep_first(wanted_BT[row], capacity)
        used = index < TOKENS
        np.testing.assert_array_equal(selection.index_BC[row][used], index[used])
        # Unused places point past the end, where reads give zero.
        assert (np.asarray(selection.index_BC[row])[~used] >= TOKENS).all()
        np.testing.assert_array_equal(selection.slot_BT[row], slot)
        np.testing.assert_array_equal(selection.kept_BT[row], slot < capacity)


@hypothesis.given(MASKS, CAPACITIES, ROOMS)
def test_pack_keeps_no_more_than_a_row_has_room_for(wanted_BT, capacity, room_B):
    selection = jit_pack(jnp.asarray(wanted_BT), capacity, jnp.asarray(room_B))
    for row in range(ROWS):
        limit = min(capacity, room_B[row])
        kept = np.flatnonzero(wanted_BT[row])[:limit]
        np.testing.assert_array_equal(np.flatnonzero(selection.kept_BT[row]), kept)
        index = np.asarray(selection.index_BC[row])
        np.testing.assert_array_equal(index[: len(kept)], kept)
        assert (index[len(kept) :] >= TOKENS).all()


@hypothesis.given(SCORES, MASKS, st.sampled_from([0.1, 0.5, 1.0]), ROOMS)
def test_top_k_with_little_room_keeps_the_best_of_its_best(
    score_BT, valid_BT, keep_ratio, room_B
):
    capacity = math.ceil(keep_ratio * TOKENS)
    kept_BT = np.asarray(
        jit_top_k(
            jnp.asarray(score_BT),
            jnp.asarray(valid_BT),
            keep_ratio,
            capacity,
            jnp.asarray(room_B),
        ).kept_BT
    )
    for row in range(ROWS):
        valid = np.flatnonzero(valid_BT[row])
        best_first = sorted(valid, key=lambda t, row=row: (-score_BT[row, t], t))
        num_kept = min(math.ceil(keep_ratio * len(valid)), room_B[row])
        assert set(np.flatnonzero(kept_BT[row])) == set(best_first[:num_kept])


def test_a_row_without_valid_tokens_keeps_none():
    score_BT = jnp.asarray([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    valid_BT = jnp.asarray([[False, False, False], [True, True, True]])
    selection = select_top_k(score_BT, valid_BT, 0.5, 2)
    np.testing.assert_array_equal(selection.kept_BT, [[0, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(selection.index_BC, [[3, 3], [0, 1]])


@hypothesis.given(SCORES, MASKS, st.sampled_from([0.1, 0.5, 1.0]))
def test_top_k_keeps_a_share_of_the_valid_tokens_ties_to_the_earlier(
    score_BT, valid_BT, keep_ratio
):
    capacity = math.ceil(keep_ratio * TOKENS)
    selection = jit_top_k(
        jnp.asarray(score_BT), jnp.asarray(valid_BT), keep_ratio, capacity
    )
    kept_BT = np.asarray(selection.kept_BT)
    for row in range(ROWS):
        valid = np.flatnonzero(valid_BT[row])
        best_first = sorted(valid, key=lambda t, row=row: (-score_BT[row, t], t))
        num_kept = math.ceil(keep_ratio * len(valid))
        assert set(np.flatnonzero(kept_BT[row])) == set(best_first[:num_kept])
        index = np.asarray(selection.index_BC[row])
        np.testing.assert_array_equal(index, np.sort(index))


@hypothesis.given(SCORES, MASKS, CAPACITIES)
def test_the_threshold_keeps_higher_scores_of_valid_tokens_up_to_capacity(
    score_BT, valid_BT, capacity
):
    threshold = jnp.zeros((), jnp.float32)
    kept_BT = np.asarray(
        jit_above(
            jnp.asarray(score_BT), jnp.asarray(valid_BT), threshold, capacity
        ).kept_BT
    )
    for row in range(ROWS):
        passing = np.flatnonzero(valid_BT[row] & (score_BT[row] > 0))
        np.testing.assert_array_equal(np.flatnonzero(kept_BT[row]), passing[:capacity])


def test_padding_is_neither_kept_nor_counted():
    # Half of the row is padding with the highest scores; half of the rest is kept.
    score_BT = jnp.asarray([[9.0, 1.0, 9.0, 4.0, 3.0, 9.0, 2.0, 9.0]])
    valid_BT = jnp.asarray([[False, True, False, True, True, False, True, False]])
    top = select_top_k(score_BT, valid_BT, 0.5, 4)
    np.testing.assert_array_equal(np.flatnonzero(top.kept_BT[0]), [3, 4])
    above = select_above(score_BT, valid_BT, jnp.asarray(0.0), 4)
    np.testing.assert_array_equal(np.flatnonzero(above.kept_BT[0]), [1, 3, 4, 6])


def test_equal_scores_keep_the_head_of_the_row():
    valid_BT = jnp.ones((1, 6), bool)
    kept = select_top_k(jnp.zeros((1, 6)), valid_BT, 0.5, 3).kept_BT[0]
    np.testing.assert_array_equal(kept, [1, 1, 1, 0, 0, 0])


def test_the_last_kept_score_itself_is_kept():
    # A strict comparison with the k-th score would drop it.
    score_BT = jnp.asarray([[0.3, 0.1, 0.2]])
    kept = select_top_k(score_BT, jnp.ones((1, 3), bool), 2 / 3, 2).kept_BT[0]
    np.testing.assert_array_equal(kept, [True, False, True])


def causal_kept(seed, capacity):
    score_BT = jax.random.normal(jax.random.key(seed), (1, 12))
    return select_above(
        score_BT, jnp.ones((1, 12), bool), jnp.zeros((), jnp.float32), capacity
    ).kept_BT[0]


def test_a_smaller_capacity_drops_the_last_ones_only():
    full, small = causal_kept(0, 12), causal_kept(0, 3)
    assert full.sum() > 3
    np.testing.assert_array_equal(np.flatnonzero(small), np.flatnonzero(full)[:3])
