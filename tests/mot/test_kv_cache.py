"""The cache: what it holds, and that decoding with it is the full pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.mot.tiny_block import (
    causal_geometry,
    delta_of,
    random_params,
    tiny_block,
)
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.mot import LayerCache, UntyingMap

TIED = UntyingMap.tied((TEXT, IMAGE))
UNTIED = UntyingMap.untied((TEXT, IMAGE))
# The modality of each token of three rows: 0 text, 1 image, -1 past the row's end.
MODALITY = np.array(
    [[0, 0, 1, 1, 1, 0, 0], [1, 1, 0, 0, -1, -1, -1], [0, 1, 0, 1, 0, 1, -1]]
)


def heads_of(values):
    """[B, T] numbers as heads [B, T, 1, 1]."""
    return jnp.asarray(values, jnp.float32)[..., None, None]


def appended(cache, **streams):
    """Appends stream=(positions, values); keys are minus the values."""
    value = {name: heads_of(values) for name, (_, values) in streams.items()}
    key = {name: -heads for name, heads in value.items()}
    geometry = {name: causal_geometry(held) for name, (held, _) in streams.items()}
    return cache.append(key, value, geometry)


def empty(*regions, num_rows=2):
    return LayerCache.empty(regions, num_rows, 1, 1, jnp.float32)


def test_tokens_are_packed_row_by_row_in_their_streams_region():
    cache = empty(("text", 3), ("image", 2))
    cache = appended(cache, text=([[0, -1], [0, 1]], [[10, 99], [20, 21]]))
    cache = appended(
        cache,
        image=([[1, 2], [-1, -1]], [[11, 12], [99, 99]]),
        text=([[-1, 3], [-1, 2]], [[99, 13], [99, 22]]),
    )
    np.testing.assert_array_equal(
        cache.position_BS, [[0, 3, -1, 1, 2], [0, 1, 2, -1, -1]]
    )
    held = [[10, 13, 0, 11, 12], [20, 21, 22, 0, 0]]
    np.testing.assert_array_equal(cache.value_BSGE[..., 0, 0], held)
    np.testing.assert_array_equal(cache.key_BSGE[..., 0, 0], np.negative(held))
    np.testing.assert_array_equal(cache.used["text"], [2, 3])
    np.testing.assert_array_equal(cache.used["image"], [2, 0])


def test_what_does_not_fit_is_dropped_and_the_first_come_stay():
    cache = empty(("text", 2), ("image", 1))
    cache = appended(cache, text=([[0, 1, 2], [-1, 0, -1]], [[1, 2, 3], [9, 4, 9]]))
    np.testing.assert_array_equal(cache.position_BS, [[0, 1, -1], [0, -1, -1]])
    np.testing.assert_array_equal(cache.room("text"), [0, 1])
    np.testing.assert_array_equal(cache.room("image"), [1, 1])
    cache = appended(cache, text=([[3, 4], [1, 2]], [[5, 6], [7, 8]]))
    np.testing.assert_array_equal(cache.position_BS, [[0, 1, -1], [0, 1, -1]])
    np.testing.assert_array_equal(cache.value_BSGE[1, :, 0, 0], [4, 7, 0])
    np.testing.assert_array_equal(cache.used["text"], [2, 2])


def test_the_order_of_dictionaries_does_not_matter():
    image, text = ([[0], [1]], [[1], [2]]), ([[1], [0]], [[3], [4]])
    regions = (("text", 1), ("image", 1))
    one = appended(empty(*regions), image=image, text=text)
    other = appended(empty(*regions), text=text, image=image)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_cache_keeps_its_dtype_and_knows_its_size():
    cache = LayerCache.empty((("text", 3), ("image", 2)), 4, 2, 8, jnp.bfloat16)
    # Keys and values of 4 x 5 places, two heads of 8; positions; two counters per row.
    assert cache.nbytes == 2 * 2 * (4 * 5 * 2 * 8) + 4 * (4 * 5) + 2 * 4 * 4
    key = {"text": jnp.ones((4, 1, 2, 8), jnp.float32)}
    where = {"text": causal_geometry([[0]] * 4)}
    after = jax.eval_shape(lambda cache: cache.append(key, key, where), cache)
    assert after.nbytes == cache.nbytes
    assert after.key_BSGE.dtype == jnp.bfloat16


def test_a_stream_without_a_region_is_refused():
    with pytest.raises(ValueError, match=r"no region for \['speech'\].*\('text', 3\)"):
        appended(empty(("text", 3)), speech=([[0], [0]], [[1], [1]]))


class Rows:
    """The rows of `MODALITY`, as the streams of a block hold them."""

    def __init__(self, block, seed=0):
        self.block = block
        rng = np.random.default_rng(seed)
        shape = (*MODALITY.shape, block.config.width)
        self.x_BTD = jnp.asarray(rng.normal(size=shape), jnp.float32)
        self.members = {
            stream.name: [(TEXT, IMAGE).index(m) for m in stream.modalities]
            for stream in block.streams
        }

    def stretch(self, start, stop):
        """Streams and geometry of some positions; each keeps all of their slots."""
        streams, geometry = {}, {}
        for name, members in self.members.items():
            own = np.isin(MODALITY[:, start:stop], members)
            position = np.where(own, np.arange(start, stop), -1)
            geometry[name] = causal_geometry(position)
            streams[name] = self.x_BTD[:, start:stop]
        return streams, geometry

    def cache(self, size=7):
        regions = [(name, size) for name in self.members]
        c = self.block.config
        return LayerCache.empty(
            regions, len(MODALITY), c.num_kv_heads, c.head_dim, jnp.float32
        )


def check_tokens(rows, delta, expected, start, stop):
    """Compares the deltas of tokens, leaving out empty slots."""
    for name, members in rows.members.items():
        own = np.isin(MODALITY[:, start:stop], members)
        assert own.any() or stop - start == 1
        np.testing.assert_allclose(
            np.asarray(delta[name])[own],
            np.asarray(expected[name])[:, start:stop][own],
            rtol=1e-4,
            atol=1e-5,
        )


CONFIGS = {
    "pre": {},
    "one key head": {"num_kv_heads": 1, "norm_order": "swin"},
    "phi": {"norm_order": "parallel", "norm": "layer", "feed_forward": "gelu"},
}


@pytest.mark.parametrize("stops", [range(1, 8), (4, 5, 6, 7)], ids=["steps", "prefill"])
@pytest.mark.parametrize("untying", [TIED, UNTIED], ids=["one stream", "two streams"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_decoding_with_a_cache_is_the_full_pass(config, untying, stops):
    rows = Rows(tiny_block(untying, **config))
    params = random_params(rows.block, *rows.stretch(0, 7))
    expected = delta_of(rows.block, params, *rows.stretch(0, 7))
    step = jax.jit(functools.partial(rows.block.apply, {"params": params}))
    cache, start = rows.cache(), 0
    for stop in stops:
        delta, cache = step(*rows.stretch(start, stop), cache)
        check_tokens(rows, delta, expected, start, stop)
        start = stop
    used = sum(cache.used.values())
    np.testing.assert_array_equal(used, np.sum(MODALITY >= 0, axis=1))


def test_a_stream_may_be_missing_from_a_step():
    rows = Rows(tiny_block(UNTIED))
    params = random_params(rows.block, *rows.stretch(0, 7))
    streams, geometry = rows.stretch(0, 7)
    text = {TEXT: streams[TEXT]}, {TEXT: geometry[TEXT]}
    expected = delta_of(rows.block, params, *text)
    delta, cache = rows.block.apply({"params": params}, *text, rows.cache())
    held = np.asarray(geometry[TEXT].position_BT) >= 0
    np.testing.assert_allclose(
        delta[TEXT][held], expected[TEXT][held], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(cache.used[IMAGE], 0)


def test_a_token_that_did_not_fit_is_seen_by_nobody():
    rows = Rows(tiny_block(TIED))
    streams, geometry = rows.stretch(0, 7)
    params = random_params(rows.block, streams, geometry)
    name = "text+image"
    step = jax.jit(functools.partial(rows.block.apply, {"params": params}))
    _, cache = step({name: streams[name][:, :3]}, rows.stretch(0, 3)[1], rows.cache(2))
    np.testing.assert_array_equal(cache.position_BS, [[0, 1]] * 3)
    seen, _ = step(*rows.stretch(3, 4), cache)
    louder = {name: streams[name].at[:, 2].multiply(5.0)[:, :3]}
    _, other = step(louder, rows.stretch(0, 3)[1], rows.cache(2))
    again, _ = step(*rows.stretch(3, 4), other)
    np.testing.assert_array_equal(seen[name], again[name])
