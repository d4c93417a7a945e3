"""A fresh router that keeps everything is no router: the dense model, exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.random_rows import interleaved_layout, random_interleaving
from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    flat,
    random_batch,
    random_variables,
    routed_in,
    tiny_spec,
    with_routers_at_zero,
)
from unimod_jax.mod import SCORE_WEIGHTS
from unimod_jax.models import UnifiedModel
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import NextToken

TASKS = ("text_to_image", "interleaved")
ONE_AT_ZERO = [
    name for name, weigh in SCORE_WEIGHTS.items() if weigh(jnp.zeros(())) == 1.0
]


def keep_all(score_weight="gentle", causal_rule="following_threshold"):
    return routed_in(
        (0, 1), TASKS, 1.0, score_weight=score_weight, causal_rule=causal_rule
    )


def batch_of(spec):
    interleaved = random_interleaving(interleaved_layout(spec))
    return random_batch(NextToken(), spec, tasks=("text_to_image",)) | {
        "interleaved": interleaved
    }


def without_routes(params):
    """The parameters that the dense model has too."""
    block = {"block": params["transformer"]["run_0"]["block"]}
    return params | {"transformer": {"run_0": block}}


def run(spec, variables, batch):
    apply = jax.jit(UnifiedModel(spec).apply, compiler_options=QUICK_TO_COMPILE)
    return apply(variables, batch)


@functools.cache
def dense(untied):
    """(the batch, parameters that any routed model starts with, the dense outputs)."""
    spec = tiny_spec(untied)
    batch = batch_of(spec)
    variables = random_variables(spec, batch)
    outputs, reports = run(spec, variables, batch)
    assert reports == [{}]
    return batch, flat(variables["params"]), outputs


def routed(untied, **routing):
    """(variables with the dense parameters and fresh routers, outputs, report)."""
    spec = tiny_spec(untied, keep_all(**routing))
    batch, params, _ = dense(untied)
    variables = with_routers_at_zero(random_variables(spec, batch))
    common = without_routes(variables["params"])
    assert flat(common).keys() == params.keys()
    variables["params"] = jax.tree_util.tree_map_with_path(
        lambda path, leaf: params.get("/".join(k.key for k in path), leaf),
        variables["params"],
    )
    outputs, (report,) = run(spec, variables, batch)
    return outputs, report


@pytest.mark.parametrize("untied", [(), COMPONENTS], ids=["dense", "towers"])
@pytest.mark.parametrize("score_weight", ONE_AT_ZERO)
def test_keeping_everything_is_the_dense_model_bit_for_bit(untied, score_weight):
    outputs, report = routed(untied, score_weight=score_weight)
    batch, _, expected = dense(untied)
    jax.tree.map(np.testing.assert_array_equal, outputs, expected)
    for task, group in batch.items():
        for name, stream in group.streams.items():
            held_BT = np.asarray(stream.position_BT) >= 0
            routing = report[task][name]
            np.testing.assert_array_equal(routing.kept_BT, np.stack([held_BT] * 2))
            assert not np.any(routing.disagreement)


def test_the_gentle_weight_and_no_weight_are_one_at_zero():
    assert ONE_AT_ZERO == ["gentle", "one"]


@pytest.mark.parametrize("rule", ["trained_threshold", "predictor", "top_k"])
def test_keeping_everything_is_dense_whatever_the_causal_rule(rule):
    outputs, _ = routed((), causal_rule=rule)
    jax.tree.map(np.testing.assert_array_equal, outputs, dense(())[2])


@pytest.mark.parametrize("score_weight", ["raw", "sigmoid"])
def test_other_weights_start_as_another_model(score_weight):
    outputs, _ = routed((), score_weight=score_weight)
    logits, expected = (
        each["text_to_image"].logits["text+image"] for each in (outputs, dense(())[2])
    )
    assert np.abs(logits - expected).max() > 0.1
