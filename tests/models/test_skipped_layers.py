"""Keep ratio 0: the task passes the layer by, so plans with it are smaller models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
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
from unimod_jax.mod import TaskPlan, every_other, last_half
from unimod_jax.models import MixtureOfDepths, UnifiedModel
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import NextToken

LAYERS = 4
TASKS = ("text_to_image", "text_only")
# Which layers run for text-to-image rows. Text-only rows run all.
PLANS = {
    "one layer skipped": ((2,), (0, 1, 3)),
    "early exit": ((2, 3), (0, 1)),
    "capacity 0 in every other layer": ((1, 3), (0, 2)),
    "all but the first layer skipped": ((1, 2, 3), (0,)),
}


def outputs_of(spec, params, batch):
    apply = jax.jit(UnifiedModel(spec).apply, compiler_options=QUICK_TO_COMPILE)
    return apply({"params": params}, batch)


@functools.cache
def dense():
    """(batch, parameters of four dense layers, their outputs)."""
    spec = tiny_spec(COMPONENTS, num_layers=LAYERS)
    batch = random_batch(NextToken(), spec, tasks=TASKS)
    params = random_variables(spec, batch)["params"]
    return batch, params, outputs_of(spec, params, batch)[0]


def in_runs(params, layers, lengths):
    """The parameters of some of the dense layers, scanned in runs of these lengths."""
    runs, first = {}, 0
    stacked = params["transformer"]["run_0"]
    for index, length in enumerate(lengths):
        members = jnp.asarray(layers[first : first + length], jnp.int32)
        runs[f"run_{index}"] = jax.tree.map(lambda x, m=members: x[m], stacked)
        first += length
    return params | {"transformer": runs}


def lengths_of(spec):
    lengths, designs = [], spec.designs
    for index, design in enumerate(designs):
        if index and design == designs[index - 1]:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return lengths


@pytest.mark.parametrize("plan", PLANS)
def test_a_skipped_layer_is_not_there_for_the_task(plan):
    routed_layers, left = PLANS[plan]
    batch, params, everything = dense()
    routing = routed_in(
        routed_layers, ("text_to_image",), keep_ratio=0.0, num_layers=LAYERS
    )
    spec = tiny_spec(COMPONENTS, routing, num_layers=LAYERS)
    outputs, reports = outputs_of(
        spec, in_runs(params, range(LAYERS), lengths_of(spec)), batch
    )
    assert all(report == {} for report in reports)
    for name, logits in outputs["text_only"].logits.items():
        np.testing.assert_allclose(
            logits, everything["text_only"].logits[name], rtol=1e-6, atol=1e-6
        )
    expected, _ = outputs_of(
        tiny_spec(COMPONENTS, num_layers=len(left)),
        in_runs(params, left, [len(left)]),
        {"text_to_image": batch["text_to_image"]},
    )
    for name, logits in outputs["text_to_image"].logits.items():
        np.testing.assert_allclose(
            logits, expected["text_to_image"].logits[name], rtol=1e-6, atol=1e-6
        )
        whole = everything["text_to_image"].logits[name]
        assert np.abs(logits - whole).max() > 0.01


def parameters_of(routing, tasks=TASKS):
    spec = tiny_spec(COMPONENTS, routing, num_layers=LAYERS)
    batch = random_batch(NextToken(), spec, tasks=tasks)
    return flat(abstract_variables(spec, batch)["params"])


def test_a_layer_that_every_task_skips_has_no_parameters():
    names = parameters_of(routed_in((1, 2), TASKS, keep_ratio=0.0, num_layers=LAYERS))
    runs = {name.split("/")[1] for name in names if name.startswith("transformer")}
    assert runs == {"run_0", "run_2"}


def test_a_layer_that_one_task_uses_has_its_block_but_no_router():
    skipped_by_one = routed_in(
        (1,), ("text_to_image",), keep_ratio=0.0, num_layers=LAYERS
    )
    names = parameters_of(skipped_by_one)
    assert "transformer/run_1/block/query/text/kernel" in names
    assert not any("routers" in name or "choices" in name for name in names)


def test_a_task_may_skip_a_layer_that_another_task_routes():
    depth = MixtureOfDepths(
        (
            TaskPlan("text_to_image", (None, 0.5, None, None)),
            TaskPlan("text_only", (None, 0.0, None, None)),
        )
    )
    names = parameters_of(depth)
    routers = {name.split("/")[2] for name in names if "routers" in name}
    assert routers == {"routers_text_to_image"}


def test_plans_by_task_run_from_their_first_to_their_last_ratio():
    depth = MixtureOfDepths(
        (
            TaskPlan("text_to_image", last_half(LAYERS, 1.0, 0.2)),
            TaskPlan("text_only", every_other(LAYERS, 0.6)),
        )
    )
    designs = tiny_spec((), depth, num_layers=LAYERS).designs
    routes = {task: [design.route_of(task) for design in designs] for task in TASKS}
    found = {
        task: [route and route.keep_ratio for route in of_task]
        for task, of_task in routes.items()
    }
    assert found == {
        "text_to_image": [None, None, 1.0, 0.2],
        "text_only": [None, 0.6, None, 0.6],
    }
