"""The dropout mask equals a plain loop, keeps its share, and repeats nowhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import AttentionDropout
from pallas_kernels.routed_attention.dropout import dropping, query_codes
from tests.kernels.attention_cases import kept_by_hash


@functools.partial(jax.jit, static_argnames="num_heads")
def compiled_factors(dropout, key_position_BS, num_heads):
    """Drop from ones."""
    code_BHT = query_codes(dropout, num_heads)
    ones = jnp.ones((*code_BHT.shape, key_position_BS.shape[1]))
    return dropping(code_BHT, key_position_BS, dropout.rate)(ones)


def factors(seed, rate, query_position, key_position, num_heads=2):
    """Return the factors `[B, H, T, S]` that dropout multiplies probabilities by."""
    query_position, key_position = (
        jnp.asarray(x, jnp.int32) for x in (query_position, key_position)
    )
    dropout = AttentionDropout(jnp.uint32(seed), query_position, rate)
    return np.asarray(compiled_factors(dropout, key_position, num_heads))


def rows_of_positions(num_rows, num_tokens):
    return np.tile(np.arange(num_tokens), (num_rows, 1))


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("rate", [0.1, 0.75])
def test_the_mask_equals_a_plain_loop_over_python_integers(seed, rate):
    rng = np.random.default_rng(0)
    query_position, key_position = rng.integers(-1, 2**31, (2, 2, 5))
    actual = factors(seed, rate, query_position, key_position, num_heads=3)
    kept = kept_by_hash(seed, rate, query_position, key_position, num_heads=3)
    np.testing.assert_allclose(actual, kept / (1.0 - rate), rtol=1e-6)


def test_a_mask_of_a_small_row_never_changes():
    # Pins the hash itself: a run that resumes must drop what it would have dropped.
    drawn = """
        x . . . . . . .
        x . . x . x . .
        x . x x . x . .
        . x . . x x x .
    """
    kept = [[mark == "x" for mark in row.split()] for row in drawn.split("\n")[1:-1]]
    positions = rows_of_positions(1, 4), rows_of_positions(1, 8)
    actual = factors(2411, 0.5, *positions, num_heads=1)
    np.testing.assert_array_equal(actual[0, 0] > 0, kept)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_kept_share_is_one_minus_rate_along_every_axis(rate):
    num_rows, num_heads, num_queries, num_keys = 3, 5, 192, 256
    positions = (
        rows_of_positions(num_rows, num_queries),
        rows_of_positions(num_rows, num_keys),
    )
    kept = factors(11, rate, *positions, num_heads) > 0
    # The share of each row, head, query and key, in standard deviations of a coin.
    for axis in range(4):
        others = tuple({0, 1, 2, 3} - {axis})
        share = kept.mean(axis=others)
        deviation = np.sqrt(rate * (1 - rate) / (kept.size // kept.shape[axis]))
        scores = (share - (1 - rate)) / deviation
        assert np.abs(scores).max() < 4.5, axis
        # The scores spread as coins do, neither more evenly nor less.
        freedom = len(scores)
        assert abs((scores**2).sum() - freedom) < 5 * np.sqrt(2 * freedom), axis


def test_seeds_rows_heads_and_neighbours_differ_as_independent_coins():
    rate, num_tokens = 0.3, 256
    positions = rows_of_positions(2, num_tokens), rows_of_positions(2, num_tokens)
    kept = factors(3, rate, *positions) > 0
    next_seed = factors(4, rate, *positions) > 0
    pairs = {
        "seeds": (kept, next_seed),
        "rows": (kept[0], kept[1]),
        "heads": (kept[:, 0], kept[:, 1]),
        "queries": (kept[:, :, 1:], kept[:, :, :-1]),
        "keys": (kept[..., 1:], kept[..., :-1]),
        "query and key": (kept, kept.swapaxes(2, 3)),
    }
    agree = (1 - rate) ** 2 + rate**2
    for name, (one, other) in pairs.items():
        deviation = np.sqrt(agree * (1 - agree) / one.size)
        # A mask and its transpose share every pair twice, and their diagonal.
        allowed = 5 * deviation if name != "query and key" else 0.01
        assert abs((one == other).mean() - agree) < allowed, name


def test_a_mask_belongs_to_positions_and_moves_with_them():
    rng = np.random.default_rng(5)
    query_position, key_position = rows_of_positions(2, 30), rows_of_positions(2, 40)
    kept_queries, key_order = rng.permutation(30)[:12], rng.permutation(40)
    whole = factors(6, 0.4, query_position, key_position)
    gathered = factors(
        6, 0.4, query_position[:, kept_queries], key_position[:, key_order]
    )
    np.testing.assert_array_equal(gathered, whole[:, :, kept_queries][..., key_order])


def test_rows_and_heads_on_several_devices_keep_the_mask_of_one():
    axes, auto = ("data", "tensor"), jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2, 4), axes, axis_types=(auto, auto))
    heads = jax.NamedSharding(mesh, jax.P("data", "tensor"))
    position = jnp.asarray(rows_of_positions(4, 16), jnp.int32)
    dropout = AttentionDropout(jnp.uint32(8), position, 0.5)
    sharded = jax.jit(
        compiled_factors, static_argnames="num_heads", out_shardings=heads
    )
    actual = sharded(dropout, position, num_heads=8)
    assert actual.sharding.shard_shape(actual.shape)[:2] == (2, 2)
    wanted = compiled_factors(dropout, position, num_heads=8)
    np.testing.assert_array_equal(actual, wanted)


def test_the_smallest_and_the_largest_rates_are_finite():
    positions = rows_of_positions(1, 64), rows_of_positions(1, 64)
    np.testing.assert_array_equal(factors(0, 1e-12, *positions), 1.0)
    largest = factors(0, float(np.nextafter(1.0, 0.0)), *positions)
    np.testing.assert_array_equal(largest, 0.0)
