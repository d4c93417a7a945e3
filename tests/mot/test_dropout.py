"""Dropout: only when asked for by an rng, and right in the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.mot.tiny_block import (
    QUICK_TO_COMPILE,
    delta_of,
    one_row_geometry,
    random_params,
    random_streams,
    tiny_block,
)
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.mot import dropped_out

GEOMETRY = one_row_geometry()
STREAMS = random_streams(GEOMETRY)
PLAIN = tiny_block()
PARAMS = random_params(PLAIN, STREAMS, GEOMETRY)
ORDERS = ("pre", "swin", "parallel")


def params_of(block):
    return random_params(block, STREAMS, GEOMETRY)


def test_entries_are_zeroed_or_scaled_up_and_the_mean_stays():
    x = jnp.full((100, 100), 2.0, jnp.bfloat16)
    dropped = dropped_out(x, 0.2, jax.random.key(0))
    assert dropped.dtype == x.dtype
    assert set(np.unique(dropped.astype(jnp.float32))) == {0.0, 2.5}
    # 10,000 coins: a standard deviation of 0.004.
    np.testing.assert_allclose(np.mean(dropped == 0.0), 0.2, atol=0.02)


@pytest.mark.parametrize("kind", ["residual_dropout", "attention_dropout"])
def test_without_an_rng_nothing_is_dropped(kind):
    block = tiny_block(**{kind: 0.5})
    expected = delta_of(PLAIN, PARAMS, STREAMS, GEOMETRY)
    delta = delta_of(block, PARAMS, STREAMS, GEOMETRY)
    jax.tree.map(np.testing.assert_array_equal, delta, expected)


def test_an_rng_without_a_rate_drops_nothing():
    expected = delta_of(PLAIN, PARAMS, STREAMS, GEOMETRY)
    rngs = {"dropout": jax.random.key(0)}
    delta = delta_of(PLAIN, PARAMS, STREAMS, GEOMETRY, rngs=rngs)
    jax.tree.map(np.testing.assert_array_equal, delta, expected)


def samples(block, params, count):
    """Deltas of one block under many keys: stream -> [count, 1, T, D]."""

    def sample(key):
        return delta_of(block, params, STREAMS, GEOMETRY, rngs={"dropout": key})

    draw = jax.jit(jax.vmap(sample), compiler_options=QUICK_TO_COMPILE)
    return draw(jax.random.split(jax.random.key(0), count))


@pytest.mark.parametrize("kind", ["residual_dropout", "attention_dropout"])
def test_the_same_key_drops_the_same_and_another_key_others(kind):
    block = tiny_block(**{kind: 0.5})

    def delta(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return delta_of(block, PARAMS, STREAMS, GEOMETRY, rngs=rngs)[IMAGE]

    np.testing.assert_array_equal(delta(0), delta(0))
    assert np.abs(delta(0) - delta(1)).max() > 0.1


@pytest.mark.parametrize("norm_order", ORDERS)
def test_both_branches_are_dropped_where_they_are_added(norm_order):
    block = tiny_block(norm_order=norm_order, residual_dropout=0.6)
    drawn = samples(block, params_of(block), 400)
    for name, where in GEOMETRY.items():
        held = np.asarray(where.position_BT)[0] >= 0
        zeros = np.abs(drawn[name][:, 0, held]) < 1e-6
        # A share of the entries loses both branches: 0.6 x 0.6.
        np.testing.assert_allclose(np.mean(zeros), 0.36, atol=0.02)


def test_residual_dropout_is_unbiased():
    # The parallel block is linear in what is dropped, so its mean delta is the delta.
    block = tiny_block(norm_order="parallel", residual_dropout=0.1)
    params = params_of(block)
    expected = delta_of(block, params, STREAMS, GEOMETRY)
    drawn = samples(block, params, 4000)
    for name, delta in expected.items():
        error = np.mean(drawn[name], axis=0) - delta
        # Each branch has a standard deviation of a third of its size per draw.
        assert np.abs(error).max() < 0.1
        assert np.std(drawn[name], axis=0).max() > 0.3


def test_attention_dropout_is_unbiased_before_the_output_is_normalised():
    block = tiny_block(norm_order="parallel", attention_dropout=0.3)
    params = params_of(block)
    expected = delta_of(block, params, STREAMS, GEOMETRY)
    drawn = samples(block, params, 4000)
    for name, delta in expected.items():
        assert np.abs(np.mean(drawn[name], axis=0) - delta).max() < 0.1
        assert np.std(drawn[name], axis=0).max() > 0.3


def test_attention_dropout_is_that_of_positions_wherever_tokens_are_stored():
    block = tiny_block(attention_dropout=0.5)
    order = {TEXT: np.array([3, 0, 2, 1]), IMAGE: np.array([2, 0, 1])}

    def moved(tree):
        return {
            name: jax.tree.map(lambda leaf, name=name: leaf[:, order[name]], tree[name])
            for name in tree
        }

    rngs = {"dropout": jax.random.key(0)}
    delta = delta_of(block, PARAMS, STREAMS, GEOMETRY, rngs=rngs)
    after = delta_of(block, PARAMS, moved(STREAMS), moved(GEOMETRY), rngs=rngs)
    for name, expected in moved(delta).items():
        held = np.asarray(moved(GEOMETRY)[name].position_BT)[0] >= 0
        np.testing.assert_allclose(after[name][:, held], expected[:, held], atol=1e-5)
