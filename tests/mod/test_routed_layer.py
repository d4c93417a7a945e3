"""A routed layer: gather, run the block on what is kept, put its delta back."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.mod.toy_block import WIDTH, geometry_of, random_params, toy_block
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.mod import (
    Chosen,
    gentle_weight,
    pack,
    routed_delta,
    select_top_k,
    weighted,
)

TEXT_SLOTS, IMAGE_SLOTS = 5, 6


def row_geometry(num_text):
    """Two rows: `num_text` causal text tokens, empty slots, then a whole image."""
    slot = np.arange(TEXT_SLOTS)
    text = np.where(slot < num_text, slot, -1)
    image = num_text + np.arange(IMAGE_SLOTS)
    end = np.full(IMAGE_SLOTS, num_text + IMAGE_SLOTS)
    return {
        TEXT: geometry_of([text, text], [text + 1, text + 1]),
        IMAGE: geometry_of([image, image], [end, end]),
    }


@pytest.fixture(scope="module")
def streams():
    rng = np.random.default_rng(0)
    slots = {TEXT: TEXT_SLOTS, IMAGE: IMAGE_SLOTS}
    return {
        name: jnp.asarray(rng.normal(size=(2, count, WIDTH)), jnp.float32)
        for name, count in slots.items()
    }


@pytest.fixture(scope="module")
def params():
    return random_params()


def choices(selection, weight):
    zero = jnp.zeros(())
    return {
        name: Chosen(
            chosen,
            weight[name],
            jnp.ones_like(weight[name], bool) if chosen is None else chosen.kept_BT,
            zero,
            zero,
        )
        for name, chosen in selection.items()
    }


@functools.cache
def dense():
    return jax.jit(toy_block)


@functools.cache
def routed():
    def run(params, x, where, selection, weight):
        def block(kept, kept_where):
            return toy_block(params, kept, kept_where), None

        return weighted_delta(block, x, where, choices(selection, weight))

    return jax.jit(run)


def weighted_delta(block, streams, where, chosen):
    delta, _ = routed_delta(block, streams, where, chosen)
    return weighted(delta, {name: c.weight_BT for name, c in chosen.items()})


def ones_like_tokens(streams):
    return {name: jnp.ones(x.shape[:2]) for name, x in streams.items()}


def half_kept(streams, where, seed=2):
    """A random half of each row's tokens, the same number in every case."""
    keys = dict(zip(streams, jax.random.split(jax.random.key(seed)), strict=True))
    capacities = {TEXT: 3, IMAGE: 3}
    return {
        name: select_top_k(
            jax.random.normal(keys[name], x.shape[:2]),
            where[name].position_BT >= 0,
            0.5,
            capacities[name],
        )
        for name, x in streams.items()
    }


def test_keeping_everything_with_weight_one_is_the_dense_block_bit_for_bit(
    params, streams
):
    where = row_geometry(TEXT_SLOTS)
    everything = {
        name: pack(jnp.ones(x.shape[:2], bool), x.shape[1])
        for name, x in streams.items()
    }
    delta = routed()(params, streams, where, everything, ones_like_tokens(streams))
    expected = dense()(params, streams, where)
    for name in streams:
        assert delta[name].dtype == jnp.float32
        np.testing.assert_array_equal(delta[name], expected[name])


@pytest.mark.parametrize("num_text", [TEXT_SLOTS, 3])
def test_kept_tokens_get_what_a_dense_block_blind_to_the_skipped_gives_them(
    params, streams, num_text
):
    where = row_geometry(num_text)
    selection = half_kept(streams, where)
    weight = {
        name: gentle_weight(jax.random.normal(jax.random.key(5), x.shape[:2]))
        for name, x in streams.items()
    }
    delta = routed()(params, streams, where, selection, weight)
    # Queries and phases stay; the keys of skipped tokens become invisible.
    blind = {
        name: dataclasses.replace(
            where[name],
            position_BT=jnp.where(selection[name].kept_BT, where[name].position_BT, -1),
        )
        for name in streams
    }
    expected = dense()(params, streams, blind)
    for name in streams:
        kept_BT = np.asarray(selection[name].kept_BT)
        assert 0 < kept_BT.sum() < kept_BT.size
        weighted = np.asarray(expected[name] * weight[name][..., None])
        np.testing.assert_allclose(
            np.asarray(delta[name])[kept_BT], weighted[kept_BT], rtol=1e-5, atol=1e-5
        )


def test_skipped_tokens_are_unchanged(params, streams):
    where = row_geometry(3)
    selection = half_kept(streams, where)
    delta = routed()(params, streams, where, selection, ones_like_tokens(streams))
    for name, x in streams.items():
        skipped_BT = ~np.asarray(selection[name].kept_BT)
        after = np.asarray(x + delta[name])
        np.testing.assert_array_equal(after[skipped_BT], np.asarray(x)[skipped_BT])
        assert np.abs(after - np.asarray(x))[~skipped_BT].max() > 0.1


def test_empty_slots_are_never_selected(streams):
    where = row_geometry(2)
    for seed in range(5):
        selection = half_kept(streams, where, seed)
        kept_BT = np.asarray(selection[TEXT].kept_BT)
        assert not kept_BT[:, 2:].any()
        assert (kept_BT.sum(axis=1) == 1).all()


def test_a_stream_kept_whole_is_not_gathered_and_still_weighted(params, streams):
    where = row_geometry(3)
    weight = {name: jnp.full(x.shape[:2], 1.2) for name, x in streams.items()}
    seen = {}

    def spy(kept, kept_where):
        seen.update(kept)
        return toy_block(params, kept, kept_where), None

    chosen = choices({TEXT: None, IMAGE: None}, weight)
    delta = weighted_delta(spy, streams, where, chosen)
    for name, expected in dense()(params, streams, where).items():
        assert seen[name] is streams[name]
        np.testing.assert_allclose(delta[name], 1.2 * expected, rtol=1e-5, atol=1e-6)


def test_whatever_else_a_block_returns_is_handed_on(streams):
    where = row_geometry(3)
    chosen = choices(half_kept(streams, where), ones_like_tokens(streams))
    extra = {"cache": object()}
    _, handed_on = routed_delta(lambda kept, _: (kept, extra), streams, where, chosen)
    assert handed_on is extra


def test_the_weight_multiplies_the_delta_and_nothing_else(streams):
    where = row_geometry(3)
    selection = half_kept(streams, where)
    weight = {name: jnp.full(x.shape[:2], 1.2) for name, x in streams.items()}

    def add_one(kept, _):
        return jax.tree.map(jnp.ones_like, kept), None

    def add_nothing(kept, _):
        return jax.tree.map(jnp.zeros_like, kept), None

    chosen = choices(selection, weight)
    delta = weighted_delta(add_one, streams, where, chosen)
    nothing = weighted_delta(add_nothing, streams, where, chosen)
    for name in streams:
        expected = np.where(selection[name].kept_BT[..., None], 1.2, 0.0)
        np.testing.assert_allclose(
            delta[name], np.broadcast_to(expected, delta[name].shape), rtol=1e-6
        )
        np.testing.assert_array_equal(nothing[name], 0.0)


def test_the_gradient_of_a_weight_is_its_tokens_delta_and_zero_if_skipped(
    params, streams
):
    where = row_geometry(3)
    selection = half_kept(streams, where)

    def total(weight):
        delta = routed()(params, streams, where, selection, weight)
        return sum(jnp.sum(x) for x in delta.values())

    ones = ones_like_tokens(streams)
    gradient = jax.grad(total)(ones)
    delta = routed()(params, streams, where, selection, ones)
    for name in streams:
        np.testing.assert_allclose(
            gradient[name], np.sum(delta[name], axis=-1), rtol=1e-4, atol=1e-5
        )
        skipped_BT = ~np.asarray(selection[name].kept_BT)
        np.testing.assert_array_equal(np.asarray(gradient[name])[skipped_BT], 0.0)


def test_kept_tokens_keep_their_positions_windows_and_angles(streams):
    where = row_geometry(3)
    selection = half_kept(streams, where)
    seen = {}

    def spy(kept, kept_where):
        seen.update(kept_where)
        return kept, None

    chosen = choices(selection, ones_like_tokens(streams))
    routed_delta(spy, streams, where, chosen)
    for name in streams:
        for row in range(2):
            kept = np.flatnonzero(selection[name].kept_BT[row])
            for before, after in zip(
                jax.tree.leaves(where[name]), jax.tree.leaves(seen[name]), strict=True
            ):
                np.testing.assert_array_equal(
                    after[row, : len(kept)], before[row, kept]
                )
            assert (np.asarray(seen[name].position_BT)[row, len(kept) :] == -1).all()
            assert (np.asarray(seen[name].window_end_BT)[row, len(kept) :] == 0).all()
