"""A ramp is one run: one body for layers that differ in keep ratios alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    flat,
    random_batch,
    random_variables,
    routed_in,
    tiny_spec,
)
from unimod_jax.layout import rotary_phase
from unimod_jax.layout.token_batch import AttentionGeometry
from unimod_jax.mod import TaskPlan
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import (
    MixtureOfDepths,
    Transformer,
    UnifiedModel,
    empty_caches,
)
from unimod_jax.models.layer import GroupGeometry, Layer
from unimod_jax.models.transformer import layer_runs
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import NextToken

TASKS = ("text_to_image", "text_only")
# Layer 0 is dense; in 1, 2 and 3 one task keeps 1, 0.6 and 0.2, the other always 0.5.
RAMP = MixtureOfDepths(
    (
        TaskPlan("text_only", (None, 0.5, 0.5, 0.5)),
        TaskPlan("text_to_image", (None, 1.0, 0.6, 0.2)),
    )
)


@functools.cache
def ramp():
    """(spec, batch, variables) of a model with a ramp."""
    spec = tiny_spec(COMPONENTS, RAMP, num_layers=4)
    batch = random_batch(NextToken(), spec, tasks=TASKS)
    return spec, batch, random_variables(spec, batch)


def entered(batch, config):
    """Random hidden states of a batch, and their geometry."""
    hidden, geometry = {}, {}
    for task, group in batch.items():
        key = jax.random.key(len(task))
        hidden[task] = {
            name: jax.random.normal(key, (*stream.position_BT.shape, config.width))
            for name, stream in group.streams.items()
        }
        geometry[task] = GroupGeometry(
            {
                name: AttentionGeometry(
                    stream.position_BT,
                    stream.window_start_BT,
                    stream.window_end_BT,
                    rotary_phase(stream.position_BT, config.head_dim, 100.0),
                )
                for name, stream in group.streams.items()
            },
            group.layout,
        )
    return hidden, geometry


def test_layers_that_differ_in_keep_ratios_are_one_run():
    spec, _, variables = ramp()
    assert [len(run) for run in layer_runs(spec.designs)] == [1, 3]
    assert len(set(spec.designs)) == 4
    assert set(variables["params"]["transformer"]) == {"run_0", "run_1"}
    stacked = flat(variables["params"]["transformer"]["run_1"])
    assert {leaf.shape[0] for leaf in stacked.values()} == {3}


def test_a_layer_that_a_task_skips_is_no_part_of_its_ramp():
    routing = routed_in((1, 2, 3), TASKS, keep_ratio=0.4, final=0.0, num_layers=4)
    designs = tiny_spec(COMPONENTS, routing, num_layers=4).designs
    assert [len(run) for run in layer_runs(designs)] == [1, 2, 1]


def test_untied_and_tied_layers_of_a_ramp_are_runs_of_their_own():
    untied = tiny_spec(COMPONENTS, RAMP, num_layers=4).designs
    tied = tiny_spec((), RAMP, num_layers=4).designs
    assert [len(run) for run in layer_runs((*untied[:3], tied[3]))] == [1, 2, 1]


def one_by_one(spec, variables, hidden, geometry):
    """The layers in a Python loop, each with its own design and no ramp."""
    config = spec.config
    reports, states = [], []
    for number, design in enumerate(spec.designs):
        run, index = divmod(number + 2, 3)  # Layer 0 is run 0, the others are run 1.
        own = {
            kind: jax.tree.map(
                lambda leaf, n=index if run else 0: leaf[n], tree.get(f"run_{run}", {})
            )
            for kind, tree in variables.items()
        }
        layer = Layer(config, design, spec.streams)
        (hidden, (report, _)), changed = layer.apply(
            own, hidden, geometry, mutable=[STATE]
        )
        reports.append(report)
        states.append(changed.get(STATE, {}))
    return hidden, reports, states


def both_ways(remat):
    """((loss gradient, hidden, reports, states) scanned, the same one by one)."""
    spec, batch, everything = ramp()
    config = spec.config
    hidden, geometry = entered(batch, config)
    variables = {kind: tree["transformer"] for kind, tree in everything.items()}

    def scanned(params):
        stack = Transformer(config, spec.designs, spec.streams, remat)
        (after, reports, _), changed = stack.apply(
            {**variables, "params": params}, hidden, geometry, mutable=[STATE]
        )
        return energy(after), (after, reports, changed[STATE])

    def looped(params):
        after, reports, states = one_by_one(
            spec, {**variables, "params": params}, hidden, geometry
        )
        return energy(after), (after, reports, states)

    def run(loss):
        grad = jax.value_and_grad(loss, has_aux=True)
        compiled = jax.jit(grad, compiler_options=QUICK_TO_COMPILE)
        (_, rest), gradient = compiled(variables["params"])
        return gradient, *rest

    return run(scanned), run(looped)


def energy(hidden):
    return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(hidden))


@pytest.mark.parametrize("remat", ["all_but_results", "nothing"])
def test_a_ramp_is_a_loop_over_its_layers(remat):
    scanned, looped = both_ways(remat)
    gradient, hidden, reports, states = scanned
    assert_close(gradient, looped[0])
    assert_close(hidden, looped[1])
    of_ramp = jax.tree.map(lambda *leaves: np.stack(leaves), *looped[2][1:])
    jax.tree.map(np.testing.assert_array_equal, reports[1], of_ramp)
    kept = np.asarray(reports[1]["text_to_image"]["text"].kept_BT).sum(axis=(1, 2))
    assert kept[0] > kept[1] > kept[2] > 0
    for number, state in enumerate(looped[3][1:]):
        for path, leaf in flat(state).items():
            stacked = flat(states["run_1"])[path]
            np.testing.assert_allclose(stacked[number], leaf, rtol=1e-5, atol=1e-6)
    # The first layer keeps everything and asks no threshold, so none follows.
    moved = states["run_1"]["choices_text_to_image"]["gate"]["text"]
    assert not np.asarray(moved[0]).any()
    assert np.asarray(moved[1:]).any()


def assert_close(actual, expected):
    """Equal to rounding, of sums as large as the largest of the same array."""

    def close(a, b):
        atol = 2e-6 * max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=max(2e-5, atol))

    jax.tree.map(close, actual, expected)


def test_whole_rows_on_empty_caches_pass_a_ramp_as_they_do_without():
    spec, batch, variables = ramp()
    group, model = batch["text_to_image"], UnifiedModel(spec)
    outputs, reports = jax.jit(model.apply)(variables, {"text_to_image": group})
    caches = empty_caches(spec, group.layout, group.num_rows)
    assert len(caches) == 4
    extend = jax.jit(functools.partial(model.apply, method="extend"))
    output, cached_reports, after = extend(variables, group, caches)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a.kept_BT, b.kept_BT),
        cached_reports,
        reports,
        is_leaf=lambda x: hasattr(x, "kept_BT"),
    )
    for name, logits in outputs["text_to_image"].logits.items():
        np.testing.assert_allclose(output.logits[name], logits, rtol=1e-4, atol=1e-4)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, caches)
