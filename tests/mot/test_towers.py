"""Single-stream modules, and the combinator that makes one of them per tower."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.mot.tiny_block import flat
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.mot import Linear, Norm, Towers, layer_norm, project, rms_norm

RNG = np.random.default_rng(0)


def random(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_projection_is_a_matrix_product_per_token():
    x, kernel = random(2, 3, 4), random(4, 5)
    np.testing.assert_allclose(
        project(x, kernel), np.asarray(x) @ np.asarray(kernel), rtol=1e-5, atol=1e-6
    )


def test_the_norm_counts_in_float32_and_answers_in_the_dtype_asked():
    # The squares of 300 overflow no bfloat16, but their mean needs float32.
    x = jnp.full((1, 1, 64), 300.0, jnp.bfloat16)
    normed = rms_norm(x, jnp.full((64,), 2.0), 1e-5)
    assert normed.dtype == jnp.bfloat16
    np.testing.assert_array_equal(normed, 2.0)
    np.testing.assert_array_equal(rms_norm(x, None, 1e-5), 1.0)


def test_a_layer_norm_subtracts_the_mean_in_float32():
    # In bfloat16, 1000 + 1 is 1000.
    x = jnp.asarray([[[1000.0, 1008.0, 1000.0, 1008.0]]], jnp.bfloat16)
    scale, bias = jnp.full((4,), 2.0), jnp.asarray([0.0, 0.0, 1.0, 1.0])
    normed = layer_norm(x, scale, bias, 1e-5)
    assert normed.dtype == jnp.bfloat16
    np.testing.assert_array_equal(normed, [[[-2.0, 2.0, -1.0, 3.0]]])


def test_epsilon_is_added_to_the_variance():
    x = jnp.asarray([[[-1.0, 1.0]]])
    ones, zeros = jnp.ones((2,)), jnp.zeros((2,))
    np.testing.assert_allclose(layer_norm(x, ones, zeros, 3.0), x / 2, rtol=1e-6)
    np.testing.assert_allclose(rms_norm(x, ones, 3.0), x / 2, rtol=1e-6)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_per_head_are_one_norm_for_each_head(kind):
    x = random(2, 3, 4, 8)
    module = Norm(kind, 8, num_heads=4)
    weights = {
        name: leaf + random(*leaf.shape)
        for name, leaf in nn.unbox(module.init(jax.random.key(0), x))["params"].items()
    }
    normed = module.apply({"params": weights}, x)
    for head in range(4):
        own = {name: leaf[head] for name, leaf in weights.items()}
        expected = Norm(kind, 8).apply({"params": own}, x[:, :, head])
        np.testing.assert_allclose(normed[:, :, head], expected, rtol=1e-5, atol=1e-6)


def test_the_norm_of_kind_none_changes_nothing_and_learns_nothing():
    x = random(1, 2, 3)
    assert not Norm("none", 3).init(jax.random.key(0), x)
    np.testing.assert_array_equal(Norm("none", 3).apply({}, x), x)


def test_a_bias_starts_at_zero_and_is_added():
    x, module = random(1, 2, 3), Linear((3, 4), ("embed", "heads"), bias=True)
    params = nn.unbox(module.init(jax.random.key(0), x))["params"]
    np.testing.assert_array_equal(params["bias"], np.zeros(4))
    without = module.apply({"params": params}, x)
    params["bias"] = jnp.arange(4.0)
    shifted = module.apply({"params": params}, x)
    np.testing.assert_allclose(shifted - without, np.tile(range(4), (1, 2, 1)), 1e-5)


def test_each_stream_goes_through_the_module_of_its_tower():
    linear = functools.partial(Linear, (3, 4), ("embed", "heads"))
    towers = Towers({TEXT: "a", IMAGE: "b+c", "speech": "a"}, linear)
    streams = {TEXT: random(1, 2, 3), IMAGE: random(1, 3, 3), "speech": random(1, 1, 3)}
    params = nn.unbox(towers.init(jax.random.key(0), streams))["params"]
    assert flat(params).keys() == {"a/kernel", "b+c/kernel"}
    out = towers.apply({"params": params}, streams)
    for name, tower in towers.towers.items():
        expected = project(streams[name], params[tower]["kernel"])
        np.testing.assert_array_equal(out[name], expected)


def test_towers_draw_values_of_their_own():
    linear = functools.partial(Linear, (3, 4), ("embed", "heads"))
    params = Towers({TEXT: TEXT, IMAGE: IMAGE}, linear).init(
        jax.random.key(0), {TEXT: random(1, 2, 3)}
    )
    kernels = flat(nn.unbox(params)["params"])
    assert np.abs(kernels["text/kernel"] - kernels["image/kernel"]).min() > 1e-3


def test_a_function_may_build_another_module_for_each_tower():
    def build(name):
        return Norm("layer" if name == TEXT else "rms", 3, name=name)

    streams = {TEXT: random(1, 2, 3), IMAGE: random(1, 2, 3)}
    params = Towers({TEXT: TEXT, IMAGE: IMAGE}, build).init(jax.random.key(0), streams)
    assert flat(params["params"]).keys() == {"text/scale", "text/bias", "image/scale"}
