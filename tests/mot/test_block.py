"""The block against NumPy, and its indifference to where tokens are stored."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.mot.numpy_block import NumpyBlock
from tests.mot.tiny_block import (
    HEAD_DIM,
    POSITION,
    SIZES,
    WINDOW_END,
    abstract_params,
    causal_geometry,
    delta_of,
    flat,
    one_row_geometry,
    random_params,
    random_streams,
    tiny_block,
)
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.mot import BlockConfig, UntyingMap
from unimod_jax.mot.attention import global_attention, join_keys

BLOCK = tiny_block()
GEOMETRY = one_row_geometry()
ORDERS = ("pre", "swin", "parallel")
QK_NORMS = ("none", "rms", "layer", "layer_per_head")


@pytest.fixture(scope="module")
def streams():
    return random_streams(GEOMETRY)


@pytest.fixture(scope="module")
def params(streams):
    return random_params(BLOCK, streams, GEOMETRY)


def check_with_numpy(rotated_dim=HEAD_DIM, **config):
    block, geometry = tiny_block(**config), one_row_geometry(rotated_dim)
    streams = random_streams(geometry)
    params = random_params(block, streams, geometry)
    delta = delta_of(block, params, streams, geometry)
    oracle = NumpyBlock(block.config, params, POSITION, WINDOW_END, rotated_dim)
    for name, expected in oracle.delta(streams).items():
        np.testing.assert_allclose(delta[name][0], expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("norm_order", "norm", "qk_norm", "biases"),
    list(itertools.product(ORDERS, ("rms", "layer"), QK_NORMS, (False, True))),
)
def test_the_block_is_its_definition(norm_order, norm, qk_norm, biases):
    check_with_numpy(norm_order=norm_order, norm=norm, qk_norm=qk_norm, biases=biases)


@pytest.mark.parametrize("biases", [False, True])
def test_the_gelu_network_has_no_gate(biases):
    check_with_numpy(feed_forward="gelu", biases=biases)


def test_phis_block_turns_half_of_each_head():
    check_with_numpy(
        rotated_dim=HEAD_DIM // 2,
        norm_order="parallel",
        norm="layer",
        qk_norm="layer",
        feed_forward="gelu",
        biases=True,
        num_kv_heads=4,
    )


def shapes_of(**config):
    block = tiny_block(UntyingMap.tied((TEXT, IMAGE)), **config)
    geometry = {"text+image": causal_geometry([[0]])}
    boxed = flat(abstract_params(block, random_streams(geometry), geometry))
    return {
        path.replace("/shared", ""): (leaf.value.shape, leaf.names)
        for path, leaf in boxed.items()
    }


def test_the_pre_norm_block_has_these_parameters():
    assert shapes_of() == {
        "query/kernel": ((16, 32), ("embed", "heads")),
        "key/kernel": ((16, 16), ("embed", "kv_heads")),
        "value/kernel": ((16, 16), ("embed", "kv_heads")),
        "output/kernel": ((32, 16), ("heads", "embed")),
        "query_norm/scale": ((8,), ("norm",)),
        "key_norm/scale": ((8,), ("norm",)),
        "attention_norm/scale": ((16,), ("norm",)),
        "feed_forward_norm/scale": ((16,), ("norm",)),
        "feed_forward/gate/kernel": ((16, 24), ("embed", "mlp")),
        "feed_forward/up/kernel": ((16, 24), ("embed", "mlp")),
        "feed_forward/down/kernel": ((24, 16), ("mlp", "embed")),
    }


def test_biases_are_cut_like_the_outputs_they_are_added_to():
    added = shapes_of(biases=True).items() - shapes_of().items()
    assert dict(added) == {
        "query/bias": ((32,), ("heads",)),
        "key/bias": ((16,), ("kv_heads",)),
        "value/bias": ((16,), ("kv_heads",)),
        "output/bias": ((16,), ("embed",)),
        "feed_forward/gate/bias": ((24,), ("mlp",)),
        "feed_forward/up/bias": ((24,), ("mlp",)),
        "feed_forward/down/bias": ((16,), ("embed",)),
    }


def test_the_parallel_block_has_one_norm():
    names = shapes_of(norm_order="parallel", norm="layer", qk_norm="none").keys()
    assert {name for name in names if "norm" in name} == {
        "attention_norm/scale",
        "attention_norm/bias",
    }


def test_each_head_may_have_a_norm_of_its_own():
    shapes = shapes_of(qk_norm="layer_per_head")
    for weight in ("scale", "bias"):
        assert shapes[f"query_norm/{weight}"] == ((4, 8), (None, "norm"))
        assert shapes[f"key_norm/{weight}"] == ((2, 8), (None, "norm"))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("norm_order", "post", r"norm_order 'post' .* \['pre', 'swin', 'parallel'\]"),
        ("norm", "batch", r"norm 'batch' is not known; choose from \['rms', 'layer'\]"),
        ("qk_norm", "batch", r"qk_norm 'batch' is not known"),
        ("feed_forward", "relu", r"'relu' .* \['swiglu', 'gelu'\]"),
        ("residual_dropout", 1.0, r"residual_dropout 1.0 .* from 0 to below 1"),
        ("attention_dropout", -0.1, r"attention_dropout -0.1"),
    ],
)
def test_an_unknown_choice_is_refused(field, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        BlockConfig(**SIZES, **{field: value})


def test_moving_tokens_to_other_slots_only_moves_their_deltas(params, streams):
    order = {TEXT: np.array([3, 0, 2, 1]), IMAGE: np.array([2, 0, 1])}

    def moved(tree):
        return {
            name: jax.tree.map(lambda leaf, name=name: leaf[:, order[name]], tree[name])
            for name in tree
        }

    delta = delta_of(BLOCK, params, streams, GEOMETRY)
    after = delta_of(BLOCK, params, moved(streams), moved(GEOMETRY))
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

    def backwards(tree):
        return dict(reversed(tree.items()))

    query, key, value = heads(4), heads(2), heads(2)
    expected = global_attention(query, join_keys(key, value, GEOMETRY), GEOMETRY)
    for q, k, v, where in (
        (query, key, value, backwards(GEOMETRY)),
        (query, backwards(key), value, GEOMETRY),
        (query, key, backwards(value), GEOMETRY),
        (backwards(query), key, value, GEOMETRY),
    ):
        attended = global_attention(q, join_keys(k, v, where), where)
        for name in query:
            np.testing.assert_allclose(attended[name], expected[name], atol=1e-6)


def test_an_absent_modality_leaves_its_towers_without_gradient(params, streams):
    text = {TEXT: streams[TEXT]}

    def loss(params):
        delta = delta_of(BLOCK, params, text, {TEXT: GEOMETRY[TEXT]})
        return jnp.sum(jnp.square(delta[TEXT]))

    for path, gradient in flat(jax.jit(jax.grad(loss))(params)).items():
        if f"/{IMAGE}/" in path:
            np.testing.assert_array_equal(gradient, 0.0, err_msg=path)
        else:
            assert np.abs(gradient).max() > 0, path


def test_a_block_initialised_on_text_alone_has_the_towers_of_images_too(streams):
    both = abstract_params(BLOCK, streams, GEOMETRY)
    text = abstract_params(BLOCK, {TEXT: streams[TEXT]}, {TEXT: GEOMETRY[TEXT]})
    assert jax.tree.structure(text) == jax.tree.structure(both)


def test_a_seen_modality_trains_its_keys_though_only_text_is_scored(params, streams):
    def loss(params):
        return jnp.sum(jnp.square(delta_of(BLOCK, params, streams, GEOMETRY)[TEXT]))

    gradients = flat(jax.jit(jax.grad(loss))(params))
    assert np.abs(gradients["key/image/kernel"]).max() > 0
    np.testing.assert_array_equal(gradients["query/image/kernel"], 0.0)


def test_activations_keep_the_dtype_of_the_streams(params, streams):
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), streams)
    delta = delta_of(BLOCK, params, halves, GEOMETRY)
    exact = delta_of(BLOCK, params, streams, GEOMETRY)
    for name, x in delta.items():
        assert x.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            x.astype(jnp.float32), exact[name], rtol=0.1, atol=0.2
        )
