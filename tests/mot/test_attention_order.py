"""Attention says the same in storage order and in sequence order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.mot.tiny_block import delta_of, random_params, random_streams, tiny_block
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    AttentionGeometry,
    rotary_phase,
    sequence_order,
)
from unimod_jax.mot import LayerCache, attention
from unimod_jax.mot.attention import global_attention, join_keys

# Two packed documents of 200 slots, some of them empty, dealt to three streams.
NUM_SLOTS, DOCUMENT_ENDS = 200, (70, 180)


@functools.cache
def packed_geometry(num_rows=2):
    """Rows in which the modalities alternate at random."""
    rng = np.random.default_rng(0)
    streams = rng.integers(0, 3, NUM_SLOTS)
    geometry = {}
    for index, name in enumerate((TEXT, IMAGE, SPEECH)):
        position = np.flatnonzero(streams == index)
        start = np.where(position < DOCUMENT_ENDS[0], 0, DOCUMENT_ENDS[0])
        held = position < DOCUMENT_ENDS[1]
        columns = (position, start, position + 1)
        empties = (-1, 0, 0)
        position_BT, start_BT, end_BT = (
            jnp.tile(jnp.asarray(np.where(held, x, empty), jnp.int32), (num_rows, 1))
            for x, empty in zip(columns, empties, strict=True)
        )
        phase = rotary_phase(position_BT, 8, 100.0)
        geometry[name] = AttentionGeometry(position_BT, start_BT, end_BT, phase)
    return geometry


def heads(num_heads, seed):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(
            rng.normal(size=(*where.position_BT.shape, num_heads, 8)), jnp.float32
        )
        for name, where in packed_geometry().items()
    }


def attend(order, dropout_seed, query, key, value):
    geometry = packed_geometry()
    return global_attention(
        query,
        join_keys(key, value, geometry),
        geometry,
        order=order,
        dropout_rate=0.3,
        dropout_seed=dropout_seed,
    )


@pytest.mark.parametrize("dropout_seed", [None, jnp.uint32(7)], ids=["plain", "drops"])
def test_both_orders_give_the_same_outputs_and_gradients(dropout_seed):
    arrays = heads(4, 0), heads(2, 1), heads(2, 2)
    cotangent = jax.tree.map(lambda x: 0.1 * x, heads(4, 3))
    results = []
    for order in (None, sequence_order(packed_geometry())):
        run = functools.partial(attend, order, dropout_seed)
        out, pull = jax.vjp(jax.jit(run), *arrays)
        results.append((out, pull(cotangent)))
    assert all(float(jnp.abs(x).max()) > 0.1 for x in jax.tree.leaves(results[0]))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), *results
    )


def test_attention_reads_queries_and_keys_by_position(monkeypatch):
    seen = []
    original = attention.routed_attention

    def recording(*arguments, **options):
        seen.append((arguments[3], arguments[4], arguments[5]))
        return original(*arguments, **options)

    monkeypatch.setattr(attention, "routed_attention", recording)
    attend(
        sequence_order(packed_geometry()), None, heads(4, 0), heads(2, 1), heads(2, 2)
    )
    ((start, end, position),) = seen
    held = np.arange(DOCUMENT_ENDS[1])
    empty = NUM_SLOTS - len(held)
    expected = np.concatenate([held, np.full(empty, -1)])
    np.testing.assert_array_equal(position, np.tile(expected, (2, 1)))
    np.testing.assert_array_equal(end, np.tile(np.maximum(expected + 1, 0), (2, 1)))
    first = np.where(expected < DOCUMENT_ENDS[0], 0, DOCUMENT_ENDS[0])
    np.testing.assert_array_equal(start, np.tile(first, (2, 1)))


def test_a_block_with_a_cache_reads_it_as_it_was_written():
    geometry = packed_geometry()
    block = tiny_block()
    geometry = {name: geometry[name] for name in (TEXT, IMAGE)}
    streams = random_streams(geometry)
    params = random_params(block, streams, geometry)
    regions = [(name, x.shape[1]) for name, x in streams.items()]
    cache = LayerCache.empty(regions, 2, 2, 8, jnp.float32)
    order = sequence_order(geometry)
    for given in (None, order):
        delta, _ = block.apply({"params": params}, streams, geometry, cache, given)
        expected = delta_of(block, params, streams, geometry)
        for name, where in geometry.items():
            held = np.asarray(where.position_BT) >= 0
            np.testing.assert_allclose(
                np.asarray(delta[name])[held],
                np.asarray(expected[name])[held],
                rtol=1e-5,
                atol=1e-5,
            )
