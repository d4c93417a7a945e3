"""Every parameter and optimizer slot of every preset and variant has its sharding.

Shapes only, at full width: nothing is compiled or stored. Layers are alike, so one
stands for all, and one task for the others. Variants differ in the kinds of parameters
they have, presets in sizes: each preset is built with every kind at once, and a preset
of each family in every variant.
"""

import dataclasses
import functools
import math

import jax
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh

from tests.models.tiny_model import flat
from unimod_jax.mod import TaskPlan
from unimod_jax.models import MixtureOfTransformers, ModelSpec, UnifiedModel
from unimod_jax.models.accounting import abstract_rows
from unimod_jax.parallel import MeshConfig, ShardingRules, tree_sharding
from unimod_jax.presets import PRESETS, VARIANTS, Preset, model_spec
from unimod_jax.training import TrainingConfig
from unimod_jax.training.optimizer import make_optimizer

SIZES = MeshConfig(data=2, fsdp=16, sequence=2, tensor=8).sizes
POD = AbstractMesh(tuple(SIZES.values()), tuple(SIZES))
FAMILIES = ("chameleon_443m_speech", "show_o_512", "emu3")


def one_layer(spec: ModelSpec) -> ModelSpec:
    """The spec with a single layer, which routes a task if any layer does."""
    routes = [route for design in spec.designs for route in design.routes]
    plan = (TaskPlan("text_to_image", (0.5,)),)
    if all(route.skips_layer for route in routes):
        plan = ()
    routing = dataclasses.replace(spec.routing, plan=plan)
    config = dataclasses.replace(spec.config, num_layers=1)
    return dataclasses.replace(spec, config=config, routing=routing)


@functools.cache
def parameters(spec: ModelSpec, chosen: Preset) -> dict:
    """Boxed shapes of one layer's model."""
    layout = chosen.layouts(spec)["text_to_image"]
    batch = {"text_to_image": abstract_rows(spec, layout)}
    return jax.eval_shape(UnifiedModel(spec).init, jax.random.key(0), batch)["params"]


def shardings(params: dict) -> dict:
    """The shardings of parameters on the pod, the vocabulary whole if it must be."""
    try:
        return tree_sharding(params, POD, ShardingRules())
    except ValueError as error:
        assert "axis 'vocab'" in str(error) and "--sharding.vocab None" in str(error)
        return tree_sharding(params, POD, ShardingRules(vocab=None))


def check(spec: ModelSpec, chosen: Preset) -> None:
    params = parameters(one_layer(spec), chosen)
    shapes, found = flat(nn.unbox(params)), flat(shardings(params))
    assert found.keys() == shapes.keys()
    for path, leaf in shapes.items():
        pieces = leaf.size // math.prod(found[path].shard_shape(leaf.shape))
        wanted = least_pieces(path)
        assert pieces >= wanted, f"{path} {leaf.shape} is in {pieces} pieces"
    _check_towers_alike(found)


def least_pieces(path: str) -> int:
    """Projections are cut both ways; what has one wide axis, or may have, by fsdp."""
    last = path.split("/")[-1]
    if "block/" in path and last in ("kernel", "gate", "up", "down"):
        return SIZES["fsdp"] * SIZES["tensor"]
    one_way = ("kernel", "table", "image_position", "patch", "time")
    is_router = "routers" in path or last == "router" or last.endswith("_in")
    return SIZES["fsdp"] if last in one_way or is_router else 1


def _check_towers_alike(found: dict) -> None:
    """Towers of one component are cut alike (experts, stacked, by the same axes)."""
    cuts = {}
    for path, sharding in found.items():
        names = path.split("/")
        if "block" not in names or names[-1] == "router":
            continue
        component = names.index("block") + 1
        rest = [n for n in names[component + 2 :] if n not in ("kernel", "scale")]
        cut = tuple(axis for axis in sharding.spec if axis)
        cuts.setdefault((names[component], *rest), set()).add(cut)
    assert all(len(cut) == 1 for cut in cuts.values()), cuts


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_cut_with_towers_experts_and_routers(name: str):
    chosen = PRESETS[name]
    towers = MixtureOfTransformers(expert_towers=("text",))
    spec = dataclasses.replace(model_spec(chosen, "unimod"), towers=towers)
    check(spec, chosen)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_variant_of_a_family_is_cut(name: str):
    chosen, checked = PRESETS[name], set()
    for variant in VARIANTS:
        try:
            spec = model_spec(chosen, variant)
        except ValueError:
            assert variant.startswith("leave_one_out") and name != FAMILIES[0]
            continue
        if one_layer(spec) not in checked:
            check(spec, chosen)
            checked.add(one_layer(spec))
    assert len(checked) >= 10


@pytest.mark.standard_promotion("optax: Adam's bias correction")
def test_optimizer_slots_of_every_kind_are_cut_like_their_parameters():
    chosen = PRESETS["show_o_512"]
    params = parameters(one_layer(model_spec(chosen, "mot_unimod")), chosen)
    state = jax.eval_shape(make_optimizer(TrainingConfig()).init, params)
    found = flat(shardings(params))
    slots = jax.tree_util.tree_leaves_with_path(shardings(state))
    matched = 0
    for path, sharding in slots:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for parameter, cut in found.items():
            if name.endswith("/" + parameter):
                assert sharding == cut, name
                matched += 1
    assert matched == 2 * len(found)


def test_an_axis_that_cannot_be_cut_is_named_with_the_rule_to_change():
    chosen = PRESETS["emu3"]
    params = parameters(one_layer(model_spec(chosen, "dense")), chosen)
    with pytest.raises(
        ValueError, match=r"184622 entries along its axis 'vocab', which the 8 devices"
    ):
        tree_sharding(params, POD, ShardingRules())
