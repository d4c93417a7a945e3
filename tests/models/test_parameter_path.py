"""A parameter has one name, whatever plan its layers are scanned by."""

import functools

import jax
import numpy as np
import pytest

from tests.models.random_rows import interleaved_layout, random_interleaving
from tests.models.tiny_model import random_variables, tiny_spec
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.mod import TaskPlan
from unimod_jax.models import MixtureOfDepths
from unimod_jax.models.parameter_path import (
    by_path,
    chooses_tokens,
    component_and_tower,
    decays,
    is_embedding,
    is_stacked,
    layered,
    members,
    run_layers,
    stacked,
)
from unimod_jax.models.warm_start import warm_start
from unimod_jax.training import TrainingConfig
from unimod_jax.training.optimizer import make_optimizer

PLANS = {
    "dense": (None, None, None, None),
    "last half": (None, None, 0.5, 0.5),
    "a ramp": (None, 1.0, 0.6, 0.2),
    "every other": (None, 0.5, None, 0.5),
    "one skipped": (None, 0.5, 0.0, 0.5),
}


@functools.cache
def spec_of(plan):
    plans = (TaskPlan("interleaved", PLANS[plan]),) if any(PLANS[plan]) else ()
    routing = MixtureOfDepths(plans, causal_rule="predictor")
    return tiny_spec(routing=routing, num_layers=4, norm="layer", biases=True)


@functools.cache
def variables_of(plan, seed=0):
    spec = spec_of(plan)
    rows = random_interleaving(interleaved_layout(spec))
    return random_variables(spec, {"interleaved": rows}, seed)


@functools.cache
def names_of(plan):
    return frozenset(layered(variables_of(plan)["params"], spec_of(plan).designs))


@pytest.mark.parametrize("plan", PLANS)
def test_a_tree_taken_apart_and_put_together_is_the_same(plan):
    tree, designs = variables_of(plan), spec_of(plan).designs
    again = stacked(layered(tree, designs), tree, designs)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, again, tree)


@pytest.mark.standard_promotion("optax: Adam's bias correction")
def test_so_is_the_state_of_an_optimiser():
    params, designs = variables_of("a ramp")["params"], spec_of("a ramp").designs
    state = make_optimizer(TrainingConfig()).init(params)
    flat = layered(state, designs)
    name = ("layers", "3", "block", "query", TEXT, "kernel")
    slots = {path for path in flat if path[-len(name) :] == name}
    assert {path[-len(name) - 1] for path in slots} == {"mu", "nu"}
    again = stacked(flat, state, designs)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.parametrize("plan", ["last half", "a ramp", "every other"])
def test_blocks_are_called_the_same_under_every_plan(plan):
    own = {name for name in names_of(plan) if not chooses_tokens(name)}
    assert own == names_of("dense")
    assert names_of(plan) > own


def test_a_layer_that_every_task_skips_has_no_names():
    layers = {name[1] for name in names_of("one skipped") if name[0] == "layers"}
    assert layers == {"0", "1", "3"}


def test_an_array_holds_one_parameter_of_each_layer_of_its_run():
    designs = spec_of("a ramp").designs
    assert run_layers(designs) == (range(1), range(1, 4))
    path = ("transformer", "run_1", "block", "key", IMAGE, "bias")
    assert members(path, designs) == tuple(
        ("layers", str(layer), "block", "key", IMAGE, "bias") for layer in (1, 2, 3)
    )
    assert is_stacked(path) and not is_stacked(("embedding", "table"))
    assert members(("embedding", "table"), designs) == (("embedding", "table"),)
    params = variables_of("a ramp")["params"]
    third = layered(params, designs)[members(path, designs)[1]]
    np.testing.assert_array_equal(third, by_path(params)[path][1])


def test_every_parameter_is_of_one_kind():
    names = names_of("every other")
    routing = {name for name in names if chooses_tokens(name)}
    assert {name[1] for name in routing} == {"1", "3"}
    assert {name[2].split("_")[0] for name in routing} == {"routers", "choices"}
    embedding = {name for name in names if is_embedding(name)}
    assert {name[0] for name in embedding} == {"embedding", "vocabulary_head"}
    towers = {component_and_tower(name)[1] for name in names - embedding - routing}
    assert towers == {TEXT, IMAGE}
    query = ("layers", "3", "block", "query")
    assert component_and_tower((*query, TEXT, "kernel")) == (query, TEXT)
    still = {name[-1] for name in names if not decays(name) and name not in routing}
    assert still == {"scale", "bias"}
    assert {name[-1] for name in names - routing if decays(name)} >= {"kernel", "table"}


@pytest.mark.parametrize("after", ["last half", "every other", "dense"])
def test_one_plan_starts_another_and_every_block_keeps_its_bytes(after):
    before, fresh = variables_of("a ramp"), variables_of(after, seed=7)
    designs = spec_of(after).designs
    started = warm_start(before, spec_of("a ramp").designs, fresh, designs)
    held = layered(before, spec_of("a ramp").designs)
    new, made = layered(fresh, designs), layered(started, designs)
    for name, array in made.items():
        source = held if name in held else new
        assert name in held or chooses_tokens(name)
        assert np.asarray(array).tobytes() == np.asarray(source[name]).tobytes(), name


def test_a_layer_that_was_skipped_cannot_start():
    with pytest.raises(ValueError, match=r"no parameter for block/.* of shape"):
        warm_start(
            variables_of("one skipped"),
            spec_of("one skipped").designs,
            variables_of("dense"),
            spec_of("dense").designs,
        )
