"""Counted FLOPs against what XLA counts in the lowered program."""

import jax
import pytest

from tests.models.tiny_model import SIZES, abstract_variables, random_batch, tiny_spec
from unimod_jax.models import MixtureOfDepths, UnifiedModel, training_flops
from unimod_jax.models.accounting import count_parameters, row_forward_flops
from unimod_jax.objectives import (
    TEXT_ONLY,
    TEXT_TO_IMAGE,
    ImageDiffusion,
    NextToken,
)

# Wide enough for products to outweigh norms and softmax, which are not counted.
WIDE = {
    "width": 96,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "feed_forward_hidden": 256,
}
# Layers that differ are not scanned together; XLA counts a scanned body once.
ROUTED = MixtureOfDepths((1,), (TEXT_TO_IMAGE,), keep_ratio=0.5)
NUM_ROWS = 2


def flops_by_xla(spec, objective, task):
    batch = random_batch(objective, spec, NUM_ROWS, tasks=(task,))
    apply = UnifiedModel(spec).apply
    lowered = jax.jit(apply).lower(abstract_variables(spec, batch), batch)
    return lowered.cost_analysis()["flops"], batch[task].layout


@pytest.mark.parametrize("untied", [(), ("feed_forward",)], ids=["dense", "towers"])
def test_forward_flops_are_those_of_xla(untied):
    spec = tiny_spec(untied, num_layers=1, **WIDE)
    counted_by_xla, layout = flops_by_xla(spec, NextToken(), TEXT_TO_IMAGE)
    counted = NUM_ROWS * row_forward_flops(spec, layout)
    assert counted == pytest.approx(counted_by_xla, rel=0.1)
    assert counted < counted_by_xla


def test_forward_flops_of_a_routed_layer_are_those_of_xla():
    spec = tiny_spec(routing=ROUTED, num_layers=2, **WIDE)
    counted_by_xla, layout = flops_by_xla(spec, NextToken(), TEXT_TO_IMAGE)
    counted = NUM_ROWS * row_forward_flops(spec, layout)
    assert counted == pytest.approx(counted_by_xla, rel=0.1)
    dense = NUM_ROWS * row_forward_flops(spec.dense_twin(), layout)
    assert counted < 0.85 * dense


def test_forward_flops_of_patches_are_those_of_xla():
    spec = tiny_spec(patch_size=3, num_layers=1, **WIDE)
    counted_by_xla, layout = flops_by_xla(spec, ImageDiffusion(), TEXT_TO_IMAGE)
    counted = NUM_ROWS * row_forward_flops(spec, layout)
    assert counted == pytest.approx(counted_by_xla, rel=0.1)


def test_one_row_of_one_layer_by_hand():
    spec = tiny_spec((), num_layers=1)
    layout = NextToken().layouts(SIZES, spec.untying.streams())[TEXT_ONLY]
    tokens = 1 + SIZES.caption_tokens + 1
    projections = 16 * (16 + 8 + 8 + 16)
    feed_forward = 3 * 16 * 24
    attention = 2 * tokens * 16
    head = 16 * 24
    expected = 2 * tokens * (projections + feed_forward + attention + head)
    assert row_forward_flops(spec, layout) == expected


def test_training_is_three_forward_passes_over_all_rows_of_all_tasks():
    spec = tiny_spec()
    layouts = NextToken().layouts(SIZES, spec.untying.streams())
    rows = {TEXT_TO_IMAGE: 3, TEXT_ONLY: 5}
    layouts = {task: layouts[task] for task in rows}
    expected = 3 * sum(
        count * row_forward_flops(spec, layouts[task]) for task, count in rows.items()
    )
    assert training_flops(spec, layouts, rows) == expected


def test_routing_lowers_the_flops_of_its_own_task_only():
    routed, dense = tiny_spec(routing=ROUTED), tiny_spec()
    layouts = NextToken().layouts(SIZES, dense.untying.streams())

    def ratio(task):
        return row_forward_flops(routed, layouts[task]) / row_forward_flops(
            dense, layouts[task]
        )

    assert ratio(TEXT_TO_IMAGE) < 0.85
    assert ratio(TEXT_ONLY) == 1.0


def test_parameters_are_counted_from_shapes_alone():
    spec = tiny_spec((), num_layers=1)
    batch = random_batch(NextToken(), spec, tasks=(TEXT_ONLY,))
    abstract = abstract_variables(spec, batch)["params"]["embedding"]
    assert count_parameters(abstract) == 24 * 16 + 4 * 16
