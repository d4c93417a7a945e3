"""Devices that share projections add up once per sublayer, for all towers at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import random_batch, random_variables, tiny_spec
from tests.parallel.compiled_layers import (
    STREAM,
    compiled,
    sent_by_layers,
    token_sums,
    two_layers,
)
from unimod_jax.models import MixtureOfTransformers, UnifiedModel
from unimod_jax.mot.tensor_parallel import apart, together
from unimod_jax.objectives import NextToken
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh, on_mesh

ALL_TOKENS = 2 * STREAM
FOUR = MeshConfig(tensor=4)


def with_experts(spec):
    towers = MixtureOfTransformers(expert_towers=("text",))
    return dataclasses.replace(spec, towers=towers)


@pytest.mark.parametrize(
    "spec",
    [two_layers(), two_layers(norm_order="parallel", norm="layer", biases=True)],
    ids=["pre", "parallel"],
)
def test_a_layer_adds_up_twice_with_all_towers_at_once(spec):
    text = compiled(spec, FOUR, jax.devices())
    assert sent_by_layers(text) == [("all-reduce", ALL_TOKENS)] * 2


def test_experts_add_up_with_the_other_towers():
    text = compiled(with_experts(two_layers()), FOUR, jax.devices())
    assert token_sums(text) == [ALL_TOKENS] * 2


def test_the_pass_back_adds_up_twice_more():
    text = compiled(two_layers(), FOUR, jax.devices(), gradient=True)
    assert token_sums(text) == [ALL_TOKENS] * 4


def test_devices_that_share_tokens_add_up_their_own():
    spec = two_layers()
    text = compiled(spec, MeshConfig(data=2, tensor=2), jax.devices())
    assert sent_by_layers(text) == [("all-reduce", ALL_TOKENS // 2)] * 2


def test_copies_and_sums_are_each_others_gradients():
    streams = {
        "text": jnp.arange(12.0).reshape(1, 6, 2),
        "image": jnp.arange(8.0).reshape(1, 4, 2),
    }
    weight = jnp.arange(1.0, 5.0)[:, None, None, None]

    def weighted_sum(streams):
        copies = apart(streams, "mlp", 8)
        return together({name: x * weight for name, x in copies.items()}, "mlp")

    def loss(streams):
        return sum(jnp.sum(jnp.square(x)) for x in weighted_sum(streams).values())

    with on_mesh(make_mesh(MeshConfig(sequence=2, tensor=4)), ShardingRules()):
        out, gradient = jax.jit(weighted_sum)(streams), jax.jit(jax.grad(loss))(streams)
    for name, x in streams.items():
        np.testing.assert_array_equal(out[name], 10 * x)
        np.testing.assert_array_equal(gradient[name], 200 * x)
    assert apart(streams, "mlp", 8) is streams
    assert together(streams, "mlp") is streams


@pytest.mark.parametrize("experts", [False, True])
@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(tensor=4), MeshConfig(sequence=2, tensor=2)],
    ids=["tensor", "sequence"],
)
def test_outputs_and_gradients_are_those_of_one_device(mesh, experts):
    spec = tiny_spec(
        num_heads=4, num_kv_heads=4, norm_order="parallel", biases=True, num_layers=1
    )
    spec = with_experts(spec) if experts else spec
    batch = random_batch(NextToken(), spec, 2, ("text_to_image",))
    params = random_variables(spec, batch)["params"]

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(params):
        def loss(params):
            outputs, _ = UnifiedModel(spec).apply({"params": params}, batch)
            hidden = outputs["text_to_image"].hidden
            return sum(jnp.sum(jnp.sin(x)) for x in hidden.values())

        return jax.value_and_grad(loss)(params)

    wanted = run(params)
    with on_mesh(make_mesh(mesh), ShardingRules()):
        found = run(params)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
