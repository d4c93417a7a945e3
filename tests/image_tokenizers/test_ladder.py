"""The layers of the ladder against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unimod_jax.image_tokenizers import Ladder
from unimod_jax.image_tokenizers.convolution import BatchNorm, GroupNorm, SpatialNorm
from unimod_jax.image_tokenizers.ladder import QUERIES_AT_ONCE, attend_all


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("places", [5, QUERIES_AT_ONCE + 3])
def test_attention_in_parts_is_attention(places: int):
    query, key, value = (normal(seed, 2, places, 8) for seed in range(3))
    score = np.einsum("bqc,bkc->bqk", query, key, dtype=np.float64) / np.sqrt(8)
    weight = np.exp(score - score.max(-1, keepdims=True))
    expected = (weight / weight.sum(-1, keepdims=True)) @ np.asarray(value)
    mixed = attend_all(query, key, value)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_the_scores_of_all_places_never_exist_at_once():
    places = 8 * QUERIES_AT_ONCE
    place = jax.ShapeDtypeStruct((1, places, 8), jnp.float32)
    memory = jax.jit(attend_all).lower(place, place, place).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * places * places / 2


def test_group_norm_is_over_places_and_the_channels_of_a_group():
    # Small enough that epsilon counts.
    x = np.asarray(normal(0, 2, 3, 5, 64)) * 2e-3 + 1e-2
    scale, bias = normal(1, 64), normal(2, 64)
    ours = GroupNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    grouped = x.astype(np.float64).reshape(2, 15, 32, 2)
    grouped = grouped - grouped.mean((1, 3), keepdims=True)
    grouped = grouped / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-6)
    expected = grouped.reshape(x.shape) * np.asarray(scale) + np.asarray(bias)
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_batch_norm_takes_its_statistics_from_the_file():
    names = ("scale", "bias", "mean")
    params = {name: np.asarray(normal(i, 4)) for i, name in enumerate(names)}
    params["variance"] = np.asarray([2e-5, 1.0, 2.0, 3.0], np.float32)
    params["batches_seen"] = np.asarray(7, np.int32)
    x = np.asarray(normal(9, 2, 3, 4))
    expected = (x - params["mean"]) / np.sqrt(params["variance"] + 1e-5)
    expected = expected * params["scale"] + params["bias"]
    ours = BatchNorm().apply({"params": jax.tree.map(jnp.asarray, params)}, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_spatial_norm_looks_at_the_code_over_each_place():
    x, code = normal(0, 1, 4, 4, 32), normal(1, 1, 2, 2, 3)
    other = np.array(code)
    other[0, 0, 1] += 1
    params = jax.jit(SpatialNorm().init)(jax.random.key(2), x, code)
    norm = jax.jit(SpatialNorm().apply)
    before, after = norm(params, x, code), norm(params, x, jnp.asarray(other))
    changed = np.asarray(before != after).any(-1)[0]
    expected = np.zeros((4, 4), bool)
    expected[:2, 2:] = True
    np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize(
    ("channels", "blocks", "message"),
    [
        ((32, 48), (1, 1), "multiples of 32"),
        ((32, 64), (1,), "one of each per level"),
        ((), (), "one of each per level"),
    ],
)
def test_sizes_that_make_no_ladder_are_refused(channels, blocks, message: str):
    with pytest.raises(ValueError, match=message):
        Ladder(channels, blocks)
