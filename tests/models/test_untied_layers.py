"""Untying as data: by layer, by component, by group of modalities.

Each choice has the parameters that a formula says, and with all towers equal it is the
dense model.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from tests.models.random_rows import interleaved_layout, random_interleaving
from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    abstract_variables,
    by_position,
    flat,
    random_variables,
    tiny_spec,
)
from unimod_jax.layout import IMAGE, SPEECH, TEXT
from unimod_jax.models import (
    MixtureOfTransformers,
    UnifiedModel,
    count_parameters,
    warm_start,
)
from unimod_jax.mot import COMPONENTS

LAYERS = 4
THREE = (TEXT, IMAGE, SPEECH)
DENSE = tiny_spec((), num_layers=LAYERS, modalities=THREE, num_heads=4, num_kv_heads=2)
# Width 16; four query heads and two key heads of 8; hidden 24.
SIZES = {
    "query": 16 * 32,
    "key": 16 * 16,
    "value": 16 * 16,
    "output": 32 * 16,
    "qk_norm": 2 * 8,
    "attention_norm": 16,
    "feed_forward": 3 * 16 * 24,
    "feed_forward_norm": 16,
}
FINAL_NORM = 16
OUTSIDE = 24 * 16 + 4 * 16 + 16 * 24
CHOICES = {
    "Uni-X: first and last layer": {"untied_layers": (0, LAYERS - 1)},
    "one layer in the middle": {"untied_layers": (2,)},
    "feed-forward only": {"untied_components": ("feed_forward",)},
    "attention projections": {"untied_components": ("query", "key", "value", "output")},
    "norms": {
        "untied_components": ("attention_norm", "feed_forward_norm", "final_norm")
    },
    "head norms in two layers": {
        "untied_components": ("qk_norm",),
        "untied_layers": (1, 2),
    },
    "leaving text out": {"tower_groups": ((TEXT,), (IMAGE, SPEECH))},
    "leaving image out": {"tower_groups": ((IMAGE,), (TEXT, SPEECH))},
    "leaving speech out of the outer layers": {
        "tower_groups": ((SPEECH,), (TEXT, IMAGE)),
        "untied_layers": (0, LAYERS - 1),
    },
}
over_choices = pytest.mark.parametrize("choice", CHOICES)


def spec_of(choice):
    return dataclasses.replace(DENSE, towers=MixtureOfTransformers(**CHOICES[choice]))


def group_of(spec):
    return random_interleaving(interleaved_layout(spec))


def logits_of(spec, params):
    apply = jax.jit(UnifiedModel(spec).apply, compiler_options=QUICK_TO_COMPILE)
    group = group_of(spec)
    outputs, _ = apply({"params": params}, {"interleaved": group})
    return by_position(group, outputs["interleaved"].logits)


@functools.cache
def dense():
    params = random_variables(DENSE, {"interleaved": group_of(DENSE)})["params"]
    return params, logits_of(DENSE, params)


@over_choices
def test_the_parameters_are_those_of_the_formula(choice):
    spec = spec_of(choice)
    towers = spec.towers
    num_towers = len(towers.tower_groups or THREE)
    more = num_towers - 1
    untied = [name for name in towers.untied_components if name != "final_norm"]
    num_untied = LAYERS if towers.untied_layers == "all" else len(towers.untied_layers)
    expected = (
        OUTSIDE
        + LAYERS * sum(SIZES.values())
        + num_untied * more * sum(SIZES[name] for name in untied)
        + FINAL_NORM * (1 + more * ("final_norm" in towers.untied_components))
    )
    params = abstract_variables(spec, {"interleaved": group_of(spec)})["params"]
    assert count_parameters(params) == expected


@over_choices
def test_equal_towers_are_the_dense_model(choice):
    spec = spec_of(choice)
    params, expected = dense()
    fresh = random_variables(spec, {"interleaved": group_of(spec)}, seed=9)["params"]
    equal = warm_start(params, DENSE.designs, fresh, spec.designs)
    np.testing.assert_allclose(logits_of(spec, equal), expected, rtol=1e-5, atol=2e-5)


def test_each_layer_is_untied_on_its_own():
    spec = spec_of("Uni-X: first and last layer")
    params = abstract_variables(spec, {"interleaved": group_of(spec)})["params"]
    layers_and_towers = {
        run: (
            next(iter(jax.tree.leaves(block))).shape[0],
            sorted(block["block"]["query"]),
        )
        for run, block in params["transformer"].items()
    }
    assert layers_and_towers == {
        "run_0": (1, sorted(THREE)),
        "run_1": (LAYERS - 2, ["shared"]),
        "run_2": (1, sorted(THREE)),
    }


def test_storage_is_as_coarse_as_the_towers_allow():
    together = spec_of("leaving text out").streams
    assert [stream.name for stream in together] == [TEXT, "image+speech"]
    assert [stream.name for stream in DENSE.streams] == ["text+image+speech"]
    apart = spec_of("head norms in two layers").streams
    assert [stream.name for stream in apart] == list(THREE)


def test_a_layer_that_does_not_exist_cannot_be_untied():
    towers = MixtureOfTransformers(untied_layers=(1, LAYERS))
    with pytest.raises(ValueError, match=r"layers \[4\] cannot be untied"):
        towers.untying_maps(THREE, LAYERS)


def test_untying_everything_multiplies_the_block_by_the_modalities():
    spec = dataclasses.replace(DENSE, towers=MixtureOfTransformers())
    batch = {"interleaved": group_of(spec)}
    params = flat(abstract_variables(spec, batch)["params"])
    inside = {
        tower: sum(
            math.prod(leaf.value.shape)
            for path, leaf in params.items()
            if tower in path.split("/")
        )
        for tower in THREE
    }
    assert set(inside.values()) == {LAYERS * sum(SIZES.values()) + FINAL_NORM}
    assert set(COMPONENTS) == {*SIZES, "final_norm"}
