"""What a config turns on: a tied head, biases, dropout, and towers as copies."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    abstract_variables,
    flat,
    random_batch,
    random_variables,
    routed_in,
    tiny_spec,
)
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.models import UnifiedModel
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import NextToken
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh
from unimod_jax.training.state import make_state

ROUTED = routed_in((0, 1), ("text_to_image",), keep_ratio=0.5)


def batch_of(spec):
    return random_batch(NextToken(), spec, tasks=("text_to_image",))


@functools.cache
def compiled(spec):
    """Jitted (variables, batch, rngs) -> logits."""

    def logits(variables, batch, rngs):
        outputs, _ = UnifiedModel(spec).apply(variables, batch, rngs=rngs)
        return outputs["text_to_image"].logits

    return jax.jit(logits, compiler_options=QUICK_TO_COMPILE)


def logits_of(spec, variables, **rngs):
    return compiled(spec)(variables, batch_of(spec), rngs)


def parameter_names(spec):
    return set(flat(abstract_variables(spec, batch_of(spec))["params"]))


def test_a_tied_head_is_the_table_transposed():
    tied, untied = tiny_spec(tied_head=True), tiny_spec()
    variables = random_variables(tied, batch_of(tied))
    head = "vocabulary_head/kernel"
    assert parameter_names(untied) - parameter_names(tied) == {head}
    table_VD = variables["params"]["embedding"]["table"]
    own = variables["params"] | {"vocabulary_head": {"kernel": table_VD.T}}
    logits = logits_of(tied, variables)
    expected = logits_of(untied, {**variables, "params": own})
    for name in (TEXT, IMAGE):
        np.testing.assert_allclose(logits[name], expected[name], rtol=1e-6, atol=1e-6)


def test_a_tied_head_with_biases_keeps_a_bias():
    names = parameter_names(tiny_spec(tied_head=True, biases=True))
    assert {name for name in names if "head" in name} == {"vocabulary_head/bias"}


def test_biases_are_everywhere_and_start_at_zero():
    spec, without = tiny_spec(biases=True), tiny_spec()
    added = parameter_names(spec) - parameter_names(without)
    projections = ("query", "key", "value", "output")
    feed_forward = (
        "feed_forward/{}/gate",
        "feed_forward/{}/up",
        "feed_forward/{}/down",
    )
    inside = [f"{name}/{{}}" for name in projections] + list(feed_forward)
    assert added == {"vocabulary_head/bias"} | {
        f"transformer/run_0/block/{name.format(tower)}/bias"
        for name in inside
        for tower in (TEXT, IMAGE)
    }
    params = random_variables(spec, batch_of(spec))["params"]
    zero = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if path[-1].key == "bias" else x, params
    )
    plain = {name: leaf for name, leaf in flat(zero).items() if name not in added}
    plain = flax.traverse_util.unflatten_dict(plain, sep="/")
    expected = logits_of(without, {"params": plain})
    for name, logits in logits_of(spec, {"params": zero}).items():
        np.testing.assert_array_equal(logits, expected[name])
    changed = logits_of(spec, {"params": params})
    assert np.abs(changed[TEXT] - expected[TEXT]).max() > 0.1


@pytest.mark.parametrize("where", ["attention", "residual", "embedding"])
def test_dropout_drops_with_an_rng_only(where):
    spec = tiny_spec(COMPONENTS, ROUTED, **{f"{where}_dropout": 0.5})
    without = dataclasses.replace(
        spec, config=dataclasses.replace(spec.config, **{f"{where}_dropout": 0.0})
    )
    assert spec.config.has_dropout
    assert not without.config.has_dropout
    variables = random_variables(spec, batch_of(spec))
    quiet = logits_of(spec, variables)
    jax.tree.map(np.testing.assert_array_equal, quiet, logits_of(without, variables))
    one, same, other = (
        logits_of(spec, variables, dropout=jax.random.key(seed)) for seed in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert np.abs(one[TEXT] - quiet[TEXT]).max() > 0.01
    assert np.abs(one[TEXT] - other[TEXT]).max() > 0.01
    # Nothing to drop: an rng changes nothing.
    still = logits_of(without, variables, dropout=jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, still, quiet)


def gradient_with_dropout(remat):
    spec = tiny_spec((), residual_dropout=0.5, attention_dropout=0.5, remat=remat)
    batch = batch_of(spec)

    def loss(params, key):
        given = {"params": params}
        outputs, _ = UnifiedModel(spec).apply(given, batch, rngs={"dropout": key})
        logits = outputs["text_to_image"].logits.values()
        return sum(jnp.mean(jnp.square(x)) for x in logits)

    differentiate = jax.jit(jax.grad(loss), compiler_options=QUICK_TO_COMPILE)
    params = random_variables(spec, batch)["params"]
    return flat(differentiate(params, jax.random.key(4)))


def test_recomputation_drops_the_same_values_again():
    gradients = gradient_with_dropout("nothing")
    recomputed = gradient_with_dropout("all_but_results")
    for path, expected in gradients.items():
        np.testing.assert_allclose(
            recomputed[path], expected, rtol=1e-4, atol=1e-6, err_msg=path
        )


def initial_params(initial_towers):
    spec = tiny_spec(COMPONENTS)
    towers = dataclasses.replace(spec.towers, initial_towers=initial_towers)
    spec = dataclasses.replace(spec, towers=towers)
    state, _ = make_state(
        UnifiedModel(spec),
        optax.sgd(1e-3),
        batch_of(spec),
        seed=3,
        mesh=make_mesh(MeshConfig()),
        rules=ShardingRules(),
    )
    return flat(state.params)


@pytest.mark.parametrize("initial_towers", ["copies", "independent"])
def test_towers_start_as_copies_or_as_draws_of_their_own(initial_towers):
    params = initial_params(initial_towers)
    pairs = [
        (name, leaf, params[name.replace("/text/", "/image/")])
        for name, leaf in params.items()
        if "/text/" in name
    ]
    assert len(pairs) == 12
    for name, text, image in pairs:
        equal = bool((text == image).all())
        assert equal == (initial_towers == "copies" or name.endswith("scale")), name
    # Layers still start apart.
    query = params["transformer/run_0/block/query/text/kernel"]
    assert np.abs(query[0] - query[1]).max() > 0.01
