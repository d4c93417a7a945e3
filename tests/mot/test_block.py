"""The block against NumPy, and its indifference to where tokens are stored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.models.tiny_model import flat
from unimod_jax.layout import IMAGE, TEXT, AttentionGeometry, rotary_phase
from unimod_jax.mot import BlockConfig, TransformerBlock, UntyingMap
from unimod_jax.mot.attention import global_attention
from unimod_jax.mot.feed_forward import swiglu_width
from unimod_jax.mot.towers import project, rms_norm

CONFIG = BlockConfig(
    width=16, num_heads=4, num_kv_heads=2, head_dim=8, feed_forward_hidden=24
)
UNTYING = UntyingMap.untied((TEXT, IMAGE))
BLOCK = TransformerBlock(CONFIG, UNTYING)
THETA = 100.0
# Two text tokens, an image of three that sees itself, one text token; one empty slot.
POSITION = {TEXT: [0, 1, -1, 5], IMAGE: [2, 3, 4]}
WINDOW_END = {TEXT: [1, 2, 0, 6], IMAGE: [5, 5, 5]}


def geometry_of(position_T, window_end_T):
    position_BT = jnp.asarray(position_T, jnp.int32)[None]
    return AttentionGeometry(
        position_BT,
        jnp.zeros_like(position_BT),
        jnp.asarray(window_end_T, jnp.int32)[None],
        rotary_phase(position_BT, CONFIG.head_dim, THETA),
    )


GEOMETRY = {name: geometry_of(POSITION[name], WINDOW_END[name]) for name in POSITION}


@pytest.fixture(scope="module")
def streams():
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(size=(1, len(POSITION[name]), 16)), jnp.float32)
        for name in POSITION
    }


@pytest.fixture(scope="module")
def params(streams):
    abstract = jax.eval_shape(BLOCK.init, jax.random.key(0), streams, GEOMETRY)
    rng = np.random.default_rng(1)

    def draw(leaf):
        values = rng.normal(size=leaf.shape)
        values = 1 + 0.2 * values if leaf.ndim == 1 else 0.25 * values
        return jnp.asarray(values, jnp.float32)

    return jax.tree.map(draw, nn.unbox(abstract)["params"])


@functools.cache
def block_delta():
    return jax.jit(
        lambda params, streams, geometry: BLOCK.apply(
            {"params": params}, streams, geometry
        )
    )


def numpy_norm(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale


def numpy_rotated(x_THE, position_T):
    half = x_THE.shape[-1] // 2
    angle_TR = np.asarray(position_T)[:, None] * THETA ** -(np.arange(half) / half)
    turned = (x_THE[..., :half] + 1j * x_THE[..., half:]) * np.exp(
        1j * angle_TR[:, None]
    )
    return np.concatenate([turned.real, turned.imag], axis=-1)


def numpy_attention(q_THE, k_THE, v_THE, position, window_end):
    """Softmax over the visible keys, written with loops."""
    out = np.zeros_like(q_THE)
    for t, end in enumerate(window_end):
        visible = [s for s, p in enumerate(position) if 0 <= p < end]
        for head in range(q_THE.shape[1] if visible else 0):
            score = k_THE[visible, head] @ q_THE[t, head] / np.sqrt(q_THE.shape[-1])
            weight = np.exp(score - score.max())
            out[t, head] = weight / weight.sum() @ v_THE[visible, head]
    return out


def numpy_delta(params, streams):
    """The block in float64, one modality after the other."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = {name: np.asarray(stream[0], np.float64) for name, stream in streams.items()}

    def heads(component, name, normed, norm=None):
        split = (normed @ p[component][name]).reshape(len(normed), -1, 8)
        if norm is None:
            return split
        return numpy_rotated(numpy_norm(split, p[norm][name]), POSITION[name])

    q, k, v = {}, {}, {}
    for name in x:
        normed = numpy_norm(x[name], p["attention_norm"][name])
        q[name] = heads("query", name, normed, "query_norm")
        k[name] = heads("key", name, normed, "key_norm")
        v[name] = heads("value", name, normed)
    # Each of the two key heads serves two query heads in a row.
    keys = np.repeat(np.concatenate([k[TEXT], k[IMAGE]]), 2, axis=1)
    values = np.repeat(np.concatenate([v[TEXT], v[IMAGE]]), 2, axis=1)
    positions = POSITION[TEXT] + POSITION[IMAGE]
    delta = {}
    for name in x:
        mixed = numpy_attention(q[name], keys, values, positions, WINDOW_END[name])
        attended = mixed.reshape(len(mixed), -1) @ p["output"][name]
        normed = numpy_norm(x[name] + attended, p["feed_forward_norm"][name])
        gate = normed @ p["feed_forward"]["gate"][name]
        hidden = gate / (1 + np.exp(-gate)) * (normed @ p["feed_forward"]["up"][name])
        delta[name] = attended + hidden @ p["feed_forward"]["down"][name]
    return delta


def test_the_block_adds_attention_and_feed_forward_of_each_tower(params, streams):
    delta = block_delta()(params, streams, GEOMETRY)
    expected = numpy_delta(params, streams)
    for name in streams:
        np.testing.assert_allclose(delta[name][0], expected[name], rtol=1e-4, atol=1e-5)


def test_moving_tokens_to_other_slots_only_moves_their_deltas(params, streams):
    order = {TEXT: np.array([3, 0, 2, 1]), IMAGE: np.array([2, 0, 1])}

    def moved(tree):
        return {
            name: jax.tree.map(lambda leaf, name=name: leaf[:, order[name]], tree[name])
            for name in tree
        }

    delta = block_delta()(params, streams, GEOMETRY)
    after = block_delta()(params, moved(streams), moved(GEOMETRY))
    for name, expected in moved(delta).items():
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-6)


def test_the_order_of_dictionaries_does_not_matter():
    rng = np.random.default_rng(2)

    def heads(num_heads):
        return {
            name: jnp.asarray(
                rng.normal(size=(1, len(POSITION[name]), num_heads, 8)), jnp.float32
            )
            for name in POSITION
        }

    query, key, value = heads(4), heads(2), heads(2)

    def backwards(tree):
        return dict(reversed(tree.items()))

    expected = global_attention(query, key, value, GEOMETRY)
    for arguments in (
        (query, key, value, backwards(GEOMETRY)),
        (query, backwards(key), value, GEOMETRY),
        (backwards(query), key, value, GEOMETRY),
    ):
        attended = global_attention(*arguments)
        for name in query:
            np.testing.assert_allclose(attended[name], expected[name], atol=1e-6)


def test_an_absent_modality_leaves_its_towers_without_gradient(params, streams):
    text = {TEXT: streams[TEXT]}

    def loss(params):
        delta = BLOCK.apply({"params": params}, text, {TEXT: GEOMETRY[TEXT]})
        return jnp.sum(jnp.square(delta[TEXT]))

    for path, gradient in flat(jax.jit(jax.grad(loss))(params)).items():
        if path.endswith(IMAGE):
            np.testing.assert_array_equal(gradient, 0.0, err_msg=path)
        else:
            assert np.abs(gradient).max() > 0, path


def test_a_seen_modality_trains_its_keys_though_only_text_is_scored(params, streams):
    def loss(params):
        return jnp.sum(jnp.square(block_delta()(params, streams, GEOMETRY)[TEXT]))

    gradients = flat(jax.grad(loss)(params))
    assert np.abs(gradients["key/image"]).max() > 0
    np.testing.assert_array_equal(gradients["query/image"], 0.0)


def test_projection_is_a_matrix_product_per_token():
    rng = np.random.default_rng(3)
    x, kernel = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5))
    projected = project(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    np.testing.assert_allclose(projected, x @ kernel, rtol=1e-5, atol=1e-6)


def test_the_norm_counts_in_float32_and_answers_in_the_dtype_asked():
    # The squares of 300 overflow no bfloat16, but their mean needs float32.
    x = jnp.full((1, 1, 64), 300.0, jnp.bfloat16)
    normed = rms_norm(x, jnp.full((64,), 2.0), 1e-5)
    assert normed.dtype == jnp.bfloat16
    np.testing.assert_array_equal(normed, 2.0)
    np.testing.assert_array_equal(rms_norm(x, None, 1e-5), 1.0)


def test_the_feed_forward_width_follows_llamas_rule():
    assert swiglu_width(4096, multiple_of=256) == 11008
    assert swiglu_width(128) == 352
