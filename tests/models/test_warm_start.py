"""A dense model becomes towers, routed layers or both, and computes what it did."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from tests.models.random_rows import interleaved_layout, random_interleaving
from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    by_position,
    flat,
    random_variables,
    routed_in,
    tiny_spec,
    with_routers_at_zero,
)
from unimod_jax.layout import IMAGE, SPEECH, TEXT
from unimod_jax.models import (
    MixtureOfTransformers,
    UnifiedModel,
    warm_start,
)
from unimod_jax.mot import COMPONENTS

LAYERS = 3
# Only one layer is routed, so the layers are scanned in other runs than the dense ones.
KEEP_ALL = routed_in((2,), ("interleaved",), keep_ratio=1.0, num_layers=LAYERS)
SIZES = {
    "num_layers": LAYERS,
    "modalities": (TEXT, IMAGE, SPEECH),
    "norm_order": "parallel",
    "biases": True,
}
DENSE = tiny_spec((), **SIZES)


def with_towers(spec, **towers):
    return dataclasses.replace(spec, towers=MixtureOfTransformers(**towers))


TARGETS = {
    "towers": tiny_spec(COMPONENTS, **SIZES),
    "routed": tiny_spec((), KEEP_ALL, **SIZES),
    "routed towers": tiny_spec(COMPONENTS, KEEP_ALL, **SIZES),
    "towers in the outer layers": with_towers(DENSE, untied_layers=(0, LAYERS - 1)),
    "one tower for two modalities": with_towers(
        tiny_spec((), KEEP_ALL, **SIZES), tower_groups=((TEXT, SPEECH), (IMAGE,))
    ),
    "tied again": DENSE,
}


@functools.cache
def group_of(spec):
    return random_interleaving(interleaved_layout(spec), num_rows=3)


def logits_of(spec, variables):
    apply = jax.jit(UnifiedModel(spec).apply, compiler_options=QUICK_TO_COMPILE)
    group = group_of(spec)
    outputs, _ = apply(variables, {"interleaved": group})
    return by_position(group, outputs["interleaved"].logits)


@functools.cache
def trained():
    """(parameters of a dense model that has left its start, its logits)."""
    variables = random_variables(DENSE, {"interleaved": group_of(DENSE)})
    return variables["params"], logits_of(DENSE, variables)


@functools.cache
def fresh(spec):
    """Variables with other weights, and routers as they start."""
    variables = random_variables(spec, {"interleaved": group_of(spec)}, seed=5)
    return with_routers_at_zero(variables)


@functools.cache
def initial(spec):
    """Variables as initialised."""
    init = functools.partial(UnifiedModel(spec).init, jax.random.key(5))
    compiled = jax.jit(init, compiler_options=QUICK_TO_COMPILE)
    return nn.unbox(compiled({"interleaved": group_of(spec)}))


@pytest.mark.parametrize("name", TARGETS)
def test_the_converted_model_computes_what_the_dense_one_did(name):
    spec = TARGETS[name]
    params, expected = trained()
    started = warm_start(params, DENSE.designs, fresh(spec)["params"], spec.designs)
    shapes = jax.tree.map(lambda leaf: leaf.shape, fresh(spec)["params"])
    assert jax.tree.map(lambda leaf: leaf.shape, started) == shapes
    logits = logits_of(spec, {**fresh(spec), "params": started})
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=2e-5)
    # The model would be another without the conversion.
    assert np.abs(expected).max() > 0.5


def test_an_initialised_routed_model_takes_the_dense_weights_bit_for_bit():
    spec = TARGETS["routed"]
    params, expected = trained()
    started = warm_start(params, DENSE.designs, initial(spec)["params"], spec.designs)
    logits = logits_of(spec, {**initial(spec), "params": started})
    np.testing.assert_array_equal(logits, expected)


def test_routers_are_those_of_the_fresh_model():
    spec = TARGETS["routed towers"]
    given = random_variables(spec, {"interleaved": group_of(spec)}, seed=3)["params"]
    started = flat(warm_start(trained()[0], DENSE.designs, given, spec.designs))
    router = f"transformer/run_1/routers_{'interleaved'}/{IMAGE}"
    np.testing.assert_array_equal(started[router], flat(given)[router])
    assert np.abs(started[router]).max() > 0
    query = "block/query/speech/kernel"
    dense = flat(trained()[0])["transformer/run_0/block/query/shared/kernel"]
    np.testing.assert_array_equal(started[f"transformer/run_0/{query}"], dense[:2])
    np.testing.assert_array_equal(started[f"transformer/run_1/{query}"], dense[2:])


def test_a_layer_that_everyone_skips_takes_nothing():
    skip = routed_in((1,), ("interleaved",), 0.0, num_layers=LAYERS)
    spec = tiny_spec((), skip, **SIZES)
    given = fresh(spec)["params"]
    started = warm_start(trained()[0], DENSE.designs, given, spec.designs)
    assert set(started["transformer"]) == {"run_0", "run_2"}
    last = flat(started)["transformer/run_2/block/value/shared/kernel"]
    dense = flat(trained()[0])["transformer/run_0/block/value/shared/kernel"]
    np.testing.assert_array_equal(last, dense[2:])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"feed_forward_hidden": 32}, r"no parameter for .* of shape \(32, 16\)"),
        ({"num_kv_heads": 2}, r"no parameter for .*/key/.* of shape \(16,\)"),
        ({"qk_norm": "layer"}, r"no parameter for block/.*_norm/.*/bias of shape"),
        ({"qk_norm": "none"}, r"no place for its block/key_norm/shared/scale"),
        ({"biases": False}, r"no place for its block/.*/bias; give both"),
        ({"image_positions": False}, r"no place for its embedding/image_position"),
        ({"num_layers": 4}, r"of 3 layers but the new model has 4"),
    ],
    ids=str,
)
def test_other_sizes_are_refused_in_a_sentence(wrong, words):
    spec = tiny_spec(COMPONENTS, **(SIZES | wrong))
    given = random_variables(spec, {"interleaved": group_of(spec)})["params"]
    with pytest.raises(ValueError, match=words):
        warm_start(trained()[0], DENSE.designs, given, spec.designs)


def test_experts_cannot_start_from_one_network():
    spec = with_towers(DENSE, untied_components=(), expert_towers=("shared",))
    given = random_variables(spec, {"interleaved": group_of(spec)})["params"]
    with pytest.raises(ValueError, match="no parameter for block/feed_forward/shared"):
        warm_start(trained()[0], DENSE.designs, given, spec.designs)
