"""Counted parameters and FLOPs against formulas by hand and against XLA's own count."""

import dataclasses

import jax
import pytest
from flax import linen as nn

from tests.models.tiny_model import SIZES, routed_in, tiny_spec
from tests.task_rows import layouts
from unimod_jax.layout import SPEECH, PartSizes
from unimod_jax.models import (
    MixtureOfDepths,
    MixtureOfTransformers,
    UnifiedModel,
    training_flops,
)
from unimod_jax.models.accounting import (
    CONVENTIONS,
    abstract_rows,
    count_parameters,
    forward_flops,
    parameters,
    row_flops,
    row_forward_flops,
    typical_row,
)
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken

# Wide enough for products to outweigh norms and softmax, which are not counted, and
# short enough for attention to be the reference. All streams divide by four experts.
WIDE = {
    "width": 256,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 64,
    "feed_forward_hidden": 768,
    "image_positions": False,
}
WIDE_SIZES = PartSizes(text_tokens=29, image_codes=64, image_patches=64)
PHI = {
    "norm": "layer",
    "norm_order": "parallel",
    "feed_forward": "gelu",
    "biases": True,
    "qk_norm": "layer",
    "rotary_share": 0.5,
}
DENSE = MixtureOfTransformers(())
EXPERTS = MixtureOfTransformers((), expert_towers=("shared",))
NOT_ROUTED = MixtureOfDepths()


def routed(keep_ratio=0.5, **options) -> MixtureOfDepths:
    # Layers that differ are not scanned together; XLA counts a scanned body once.
    return routed_in((1,), ("text_to_image",), keep_ratio, **options)


def wide_spec(towers=DENSE, routing=NOT_ROUTED, patch_size=0, **config):
    spec = tiny_spec((), routing, patch_size, **(WIDE | config))
    return dataclasses.replace(spec, towers=towers, vocabulary_size=512)


def rows_of(spec, objective=None, sizes=SIZES):
    return layouts(objective or NextToken(), sizes, spec.streams)


def flops_by_xla(spec, objective, layout):
    """Of the model and the loss, which is what reads the vocabulary head."""
    model, batch = UnifiedModel(spec), {layout.task: abstract_rows(spec, layout)}
    variables = jax.eval_shape(
        lambda batch: nn.unbox(model.init(jax.random.key(0), batch)), batch
    )

    def loss(variables, batch):
        outputs, _ = model.apply(variables, batch)
        (group,) = batch.values()
        noise = group.patch_BNP if layout.num_patches else None
        sums = objective.loss_sums(group, outputs[layout.task], noise)
        return objective.loss_of(sums)

    # Less work in LLVM, which comes after the program that is counted.
    options = {"xla_backend_optimization_level": 0}
    compiled = jax.jit(loss).lower(variables, batch).compile(options)
    return compiled.cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("spec", "objective"),
    [
        (wide_spec(num_layers=1), NextToken()),
        (wide_spec(MixtureOfTransformers(), num_layers=1), NextToken()),
        (wide_spec(EXPERTS, num_layers=1), NextToken()),
        (wide_spec(num_layers=1, **PHI), MaskedImage()),
        (wide_spec(num_layers=1, patch_size=32), ImageDiffusion()),
        (wide_spec(routing=routed()), NextToken()),
        (wide_spec(MixtureOfTransformers(), routed()), NextToken()),
        (wide_spec(routing=routed(keep_ratio=0.0)), NextToken()),
        (wide_spec(routing=routed(causal_rule="predictor")), NextToken()),
        (
            wide_spec(
                routing=routed(
                    scorer="attention", score_weight="one", causal_rule="top_k"
                )
            ),
            NextToken(),
        ),
    ],
    ids=[
        *("dense", "towers", "experts", "phi", "patches", "routed"),
        *("routed_towers", "skipped", "predictor", "attention_scorer"),
    ],
)
def test_forward_flops_are_those_of_the_compiled_program(spec, objective):
    layout = rows_of(spec, objective, WIDE_SIZES)["text_to_image"]
    counted, by_xla = (
        row_forward_flops(spec, layout),
        flops_by_xla(spec, objective, layout),
    )
    assert counted == pytest.approx(by_xla, rel=0.02)
    assert counted < by_xla


def test_one_row_of_one_layer_by_hand():
    spec = tiny_spec((), num_layers=1)
    layout = rows_of(spec)["text_only"]
    tokens = layout.row_length
    flops = row_flops(spec, layout)
    projections = 16 * (16 + 8 + 8 + 16)
    assert flops.linear == 2 * tokens * (projections + 3 * 16 * 24)
    assert flops.attention == 2 * 2 * tokens**2 * 16
    # The last slot predicts nothing.
    assert flops.head == 2 * (tokens - 1) * 16 * 24
    assert row_forward_flops(spec, layout) == flops.total


def test_a_gelu_layer_has_two_matrices_where_swiglu_has_three():
    swiglu, gelu = (
        tiny_spec((), num_layers=1, feed_forward=kind) for kind in ("swiglu", "gelu")
    )
    layout = rows_of(swiglu)["text_only"]
    less = row_forward_flops(swiglu, layout) - row_forward_flops(gelu, layout)
    assert less == 2 * layout.row_length * 16 * 24


def test_the_conventions_add_up():
    spec = tiny_spec(())
    layout = rows_of(spec)["text_to_image"]
    flops = row_flops(spec, layout)
    found = forward_flops(spec, layout, typical_text_tokens=SIZES.text_tokens)
    assert tuple(found) == CONVENTIONS
    assert found["linear_only"] == flops.linear
    assert found["with_attention"] == flops.linear + flops.attention
    assert found["with_head"] == found["valid_tokens"] == flops.total


def test_empty_text_slots_cost_nothing_in_a_typical_row():
    spec = tiny_spec(())
    layout = rows_of(spec)["text_to_image"]
    shorter = dataclasses.replace(SIZES, text_tokens=3)
    other = layouts(NextToken(), shorter, spec.streams)["text_to_image"]
    assert typical_row(layout, 3) == other
    found = forward_flops(spec, layout, typical_text_tokens=3)
    assert found["valid_tokens"] == row_forward_flops(spec, other)


def test_a_routed_layer_charges_capacity_for_each_stream():
    spec = tiny_spec(COMPONENTS, routing=routed(keep_ratio=0.3))
    layout = rows_of(spec)["text_to_image"]
    assert layout.num_tokens("image") == 4
    text = layout.num_tokens("text")
    kept = -(-3 * text // 10) + 2
    one_layer = 2 * (16 * (16 + 8 + 8 + 16) + 3 * 16 * 24)
    router = 2 * 16 * (text + 4)
    flops = row_flops(spec, layout)
    assert flops.linear == one_layer * (text + 4 + kept) + router
    assert flops.attention == 4 * 16 * ((text + 4) ** 2 + kept**2)


def test_a_skipped_layer_costs_nothing():
    one_layer = tiny_spec((), num_layers=1)
    skipping = tiny_spec((), routing=routed(keep_ratio=0.0))
    layout = rows_of(one_layer)["text_to_image"]
    assert row_forward_flops(skipping, layout) == row_forward_flops(one_layer, layout)


def test_routing_lowers_the_flops_of_its_own_task_only():
    dense, spec = tiny_spec(()), tiny_spec((), routing=routed())
    rows = rows_of(dense)
    cheaper = {
        task
        for task, layout in rows.items()
        if row_forward_flops(spec, layout) < row_forward_flops(dense, layout)
    }
    assert cheaper == {"text_to_image"}


def test_training_is_three_forward_passes_over_all_rows_of_all_tasks():
    spec = tiny_spec()
    rows = {"text_to_image": 3, "image_to_text": 5}
    layout_of = {task: rows_of(spec)[task] for task in rows}
    expected = 3 * sum(
        count * row_forward_flops(spec, layout_of[task]) for task, count in rows.items()
    )
    assert training_flops(spec, layout_of, rows) == expected


# --- Parameters -----------------------------------------------------------------------

PROJECTIONS = 16 * (16 + 8 + 8 + 16)
BLOCK_NORMS = 2 * 16 + 2 * 8
TINY_LAYER = PROJECTIONS + 3 * 16 * 24 + BLOCK_NORMS
TINY_AROUND = 2 * 24 * 16 + 4 * 16


def counts(spec):
    return parameters(spec, rows_of(spec))


def test_dense_parameters_by_hand():
    found = counts(tiny_spec(()))
    assert found.total == found.activated == 2 * TINY_LAYER + TINY_AROUND + 16
    assert found.embedding == TINY_AROUND
    assert found.towers == {"shared": 2 * TINY_LAYER + 16}


def test_towers_multiply_all_but_the_embedding_and_activate_one_each():
    dense, untied = counts(tiny_spec(())), counts(tiny_spec())
    assert untied.activated == dense.total
    assert untied.towers == dict.fromkeys(("text", "image"), 2 * TINY_LAYER + 16)
    assert untied.total == TINY_AROUND + 2 * (2 * TINY_LAYER + 16)


def test_modalities_that_share_towers_are_counted_once():
    spec = tiny_spec(modalities=("text", "image", SPEECH))
    groups = (("text",), ("image", SPEECH))
    towers = MixtureOfTransformers(tower_groups=groups)
    found = counts(dataclasses.replace(spec, towers=towers))
    assert found.towers == dict.fromkeys(("text", "image+speech"), 2 * TINY_LAYER + 16)


def test_a_token_meets_one_expert_of_four_and_the_router():
    dense = counts(tiny_spec(()))
    found = counts(dataclasses.replace(tiny_spec(()), towers=EXPERTS))
    router = 2 * 16 * 4
    assert found.total == dense.total + 3 * 2 * (3 * 16 * 24) + router
    assert found.activated == dense.total + router


def test_experts_are_counted_whatever_rows_they_choose_from():
    towers = dataclasses.replace(EXPERTS, rows_per_expert_group=3)
    spec = dataclasses.replace(tiny_spec(()), towers=towers)
    assert counts(spec) == counts(dataclasses.replace(spec, towers=EXPERTS))


def test_routers_belong_to_no_tower():
    spec = tiny_spec((), routing=routed())
    found = counts(spec)
    assert found.total == counts(tiny_spec(())).total + 16
    assert sum(found.towers.values()) == 2 * TINY_LAYER + 16


def test_a_tree_of_shapes_is_counted():
    shapes = {
        "a": jax.ShapeDtypeStruct((2, 3), "float32"),
        "b": {"c": jax.numpy.ones(4)},
    }
    assert count_parameters(shapes) == 10
