"""What is not there does no harm: finite values, and exact zeros for what nobody used.

A row without image tokens, a stream without a single token in the batch, a row without
any document, and a batch whose tasks have no images at all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.random_rows import SLOTS, interleaved_layout, random_documents
from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    flat,
    random_batch,
    random_variables,
    routed_in,
    stack,
    tiny_spec,
)
from unimod_jax.layout import IMAGE, SPEECH, TEXT, lay_out_documents
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import MixtureOfDepths, UnifiedModel
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import NextToken, total_loss

THREE = (TEXT, IMAGE, SPEECH)
ROUTED = routed_in((0, 1), ("interleaved", "text_only"), keep_ratio=0.5)
ROUTES = {
    "dense": MixtureOfDepths(),
    "gate": ROUTED,
    "trained threshold": routed_in(
        (0, 1), ("interleaved", "text_only"), 0.5, causal_rule="trained_threshold"
    ),
    "top-k": routed_in((0, 1), ("interleaved", "text_only"), 0.5, causal_rule="top_k"),
}


def interleaved_rows(spec):
    """Nobody speaks; one row has no image either; the last row is empty."""
    layout = interleaved_layout(spec)
    rows = [
        *(random_documents(seed, SLOTS, absent=(SPEECH,)) for seed in range(4)),
        random_documents(4, SLOTS, absent=(SPEECH, IMAGE)),
        [],
    ]
    return {"interleaved": stack([lay_out_documents(row, layout) for row in rows])}


def text_rows(spec):
    """The task has no slots for images, and the batch no other task."""
    return random_batch(NextToken(), spec, tasks=("text_only",))


BATCHES = {"interleaved": (interleaved_rows, SPEECH), "text_only": (text_rows, IMAGE)}


@functools.cache
def trained_once(route, task):
    """(loss, gradients, outputs, router state) of one training step."""
    rows, _ = BATCHES[task]
    spec = tiny_spec(
        COMPONENTS, ROUTES[route], modalities=THREE, remat="all_but_results"
    )
    batch = rows(spec)
    variables = random_variables(spec, batch)

    def loss_of(params):
        given = {**variables, "params": params}
        model = UnifiedModel(spec)
        (outputs, reports), state = model.apply(given, batch, mutable=[STATE])
        loss, _ = total_loss(NextToken(), batch, {}, outputs, {task: 1.0})
        auxiliary = sum(
            jnp.sum(routing.auxiliary_loss)
            for report in reports
            for streams in report.values()
            for routing in streams.values()
        )
        return loss + auxiliary, (outputs, state)

    step = jax.jit(
        jax.value_and_grad(loss_of, has_aux=True), compiler_options=QUICK_TO_COMPILE
    )
    (loss, (outputs, state)), gradients = step(variables["params"])
    return loss, flat(gradients), outputs, state


over_routes = pytest.mark.parametrize("route", ROUTES)
over_tasks = pytest.mark.parametrize("task", BATCHES)


@over_routes
@over_tasks
def test_all_values_and_gradients_are_finite(route, task):
    for leaf in jax.tree.leaves(trained_once(route, task)):
        assert np.isfinite(leaf).all()


def belongs_to(path, stream):
    """Whether a parameter is of one stream's tower, router or predictor."""
    return any(name in (stream, f"{stream}_in") for name in path.split("/"))


@over_routes
@over_tasks
def test_only_the_absent_tower_has_a_gradient_of_zero(route, task):
    loss, gradients, _, _ = trained_once(route, task)
    absent = BATCHES[task][1]
    assert loss > 0.1
    of_absent = {p: g for p, g in gradients.items() if belongs_to(p, absent)}
    assert len(of_absent) >= 12
    for path, gradient in of_absent.items():
        np.testing.assert_array_equal(gradient, 0.0, err_msg=path)
    present = {IMAGE, TEXT} - {absent}
    for stream in present:
        for path, gradient in gradients.items():
            if belongs_to(path, stream):
                assert np.abs(gradient).max() > 1e-6, path


@pytest.mark.parametrize("route", ["gate", "trained threshold"])
def test_the_threshold_of_an_absent_stream_stays(route):
    *_, state = trained_once(route, "interleaved")
    for path, state_L2 in flat(state[STATE]).items():
        weight_L = state_L2[:, 1]
        expected = 0.0 if path.endswith(SPEECH) else 0.5
        np.testing.assert_array_equal(weight_L, expected, err_msg=path)


def test_rows_do_not_depend_on_what_other_rows_lack():
    spec = tiny_spec(COMPONENTS, ROUTED, modalities=THREE)
    full = interleaved_rows(spec)
    group = full["interleaved"]
    variables = random_variables(spec, full)
    apply = jax.jit(UnifiedModel(spec).apply, compiler_options=QUICK_TO_COMPILE)
    outputs, _ = apply(variables, full)
    turned = {"interleaved": jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), group)}
    other, _ = apply(variables, turned)
    for name, logits_BTV in outputs["interleaved"].logits.items():
        np.testing.assert_allclose(
            jnp.roll(logits_BTV, 1, axis=0),
            other["interleaved"].logits[name],
            rtol=1e-5,
            atol=1e-5,
        )
