"""A routed layer = the dense layer with the keys of skipped tokens hidden.

The oracle runs the block on all tokens, lets nobody see a skipped one (position -1),
and adds what the block says where a token is kept, times its weight. Which tokens are
kept is decided in NumPy. Values and gradients agree, the router's included.
"""

import dataclasses
import functools
import math

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
)
from unimod_jax.layout import AttentionGeometry, rotary_phase
from unimod_jax.mod import jitter
from unimod_jax.models.layer import GroupGeometry, Layer
from unimod_jax.mot import COMPONENTS, TransformerBlock
from unimod_jax.objectives import ImageDiffusion

KEEP, TEXT_KEEP = 0.5, 0.7
ROUTING = routed_in(
    (0,),
    ("image_to_text", "interleaved"),
    KEEP,
    text_keep_ratio=TEXT_KEEP,
    num_layers=1,
)
CASES = {
    "gate, towers": (COMPONENTS, {}, "following_threshold"),
    "gate, one stream": ((), {}, "following_threshold"),
    "top-k, towers": (COMPONENTS, {}, "top_k"),
    "gate, swin": (COMPONENTS, {"norm_order": "swin"}, "following_threshold"),
    "top-k, parallel": (
        COMPONENTS,
        {"norm_order": "parallel", "norm": "layer", "biases": True},
        "top_k",
    ),
}


def geometry_of(group, head_dim):
    streams = {
        name: AttentionGeometry(
            stream.position_BT,
            stream.window_start_BT,
            stream.window_end_BT,
            rotary_phase(stream.position_BT, head_dim, 100.0),
        )
        for name, stream in group.streams.items()
    }
    return GroupGeometry(streams, group.layout)


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer with its variables, and tokens for it.

    Diffusion rows have bidirectional images, whose own stream is chosen by top-k;
    interleaved rows are packed and causal throughout.
    """

    layer: Layer
    rule: str
    variables: dict
    hidden: dict
    geometry: dict

    def after(self, params, hidden):
        after, (report, _) = self.layer.apply(
            {**self.variables, "params": params}, hidden, self.geometry
        )
        return after, report

    def oracle(self, kept, params, hidden):
        """What the tokens become if exactly `kept` (task -> stream) are kept."""
        block = TransformerBlock(
            self.layer.config, self.layer.design.untying, self.layer.streams
        )
        after = {}
        for task, streams in hidden.items():
            seen = {
                name: dataclasses.replace(
                    where,
                    position_BT=jnp.where(kept[task][name], where.position_BT, -1),
                )
                for name, where in self.geometry[task].streams.items()
            }
            delta, _ = block.apply({"params": params["block"]}, streams, seen)
            after[task] = {}
            for name, x_BTD in streams.items():
                weight_BT = 1.0 + 0.2 * jnp.tanh(self.scores(params, task, name, x_BTD))
                weight_BT = jnp.where(kept[task][name], weight_BT, 0.0)
                after[task][name] = x_BTD + weight_BT[..., None] * delta[name]
        return after

    def scores(self, params, task, name, x_BTD):
        mean_square = jnp.mean(jnp.square(x_BTD), axis=-1, keepdims=True)
        normed_BTD = x_BTD / jnp.sqrt(mean_square + 1e-6)
        router_D = params[f"routers_{task}"][name]
        return jnp.einsum("BTD,D->BT", normed_BTD, router_D)

    def expected_kept(self):
        """Task -> stream -> boolean [B, T], decided token by token."""
        params, kept = self.variables["params"], {}
        for task, streams in self.hidden.items():
            kept[task] = {}
            for name, x_BTD in streams.items():
                where = self.geometry[task].streams[name]
                score_BT = self.scores(params, task, name, x_BTD)
                score_BT = np.asarray(score_BT + jitter(where.position_BT))
                valid_BT = np.asarray(where.position_BT) >= 0
                ratio = TEXT_KEEP if name == "text" else KEEP
                layout = self.geometry[task].layout
                by_gate = layout.is_causal(name) and self.rule != "top_k"
                choose = gated if by_gate else best
                kept[task][name] = np.stack(
                    [
                        choose(*row, ratio)
                        for row in zip(score_BT, valid_BT, strict=True)
                    ]
                )
        return kept


def best(score_T, valid_T, ratio):
    """The ceil(ratio * valid) highest scores."""
    count = math.ceil(ratio * valid_T.sum() - 1e-6)
    order = [t for t in np.argsort(-score_T) if valid_T[t]]
    return np.isin(np.arange(len(score_T)), order[:count])


def gated(score_T, valid_T, ratio):
    """Scores above the threshold of a fresh gate, while there is room."""
    kept_T, room = np.zeros(len(score_T), bool), math.ceil(ratio * len(score_T) - 1e-9)
    for t, score in enumerate(score_T):
        if valid_T[t] and score > 1e-3 * (1.0 - ratio) and room:
            kept_T[t], room = True, room - 1
    return kept_T


@functools.cache
def case_of(name):
    untied, config, rule = CASES[name]
    routing = dataclasses.replace(ROUTING, causal_rule=rule)
    spec = tiny_spec(untied, routing, patch_size=3, num_layers=1, **config)
    batch = random_batch(ImageDiffusion(), spec, 3, ("image_to_text",))
    batch["interleaved"] = random_interleaving(interleaved_layout(spec), num_rows=3)
    layer = Layer(spec.config, spec.designs[0], spec.streams)
    stacked = random_variables(spec, batch)
    variables = {
        kind: jax.tree.map(lambda leaf: leaf[0], tree["transformer"]["run_0"])
        for kind, tree in stacked.items()
    }
    geometry = {
        task: geometry_of(group, spec.config.head_dim) for task, group in batch.items()
    }
    rng = np.random.default_rng(1)
    hidden = {
        task: {
            stream: jnp.asarray(
                rng.normal(size=(*at.position_BT.shape, spec.config.width)), jnp.float32
            )
            for stream, at in where.streams.items()
        }
        for task, where in geometry.items()
    }
    return Case(layer, rule, variables, hidden, geometry)


@functools.cache
def results(name):
    """((values, report, gradients) of the layer, (values, gradients) of the oracle)."""
    case = case_of(name)
    rng = np.random.default_rng(2)
    cotangent = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), case.hidden
    )

    def differentiated(function):
        def loss(params, hidden):
            after, report = function(params, hidden)
            total = jax.tree.map(lambda x, c: jnp.sum(x * c), after, cotangent)
            return sum(jax.tree.leaves(total)), (after, report)

        compiled = jax.jit(
            jax.grad(loss, argnums=(0, 1), has_aux=True),
            compiler_options=QUICK_TO_COMPILE,
        )
        return compiled(case.variables["params"], case.hidden)

    kept = case.expected_kept()
    expected = differentiated(lambda *given: (case.oracle(kept, *given), kept))
    return differentiated(case.after), expected


over_cases = pytest.mark.parametrize("name", CASES)


@over_cases
def test_the_layer_keeps_what_its_rule_says(name):
    (_, (_, report)), (_, (_, expected)) = results(name)
    for task, streams in expected.items():
        for stream, kept_BT in streams.items():
            np.testing.assert_array_equal(report[task][stream].kept_BT, kept_BT)
            assert 0.1 < np.mean(kept_BT) < 0.9


@over_cases
def test_a_routed_layer_is_the_dense_one_with_skipped_keys_hidden(name):
    (_, (after, _)), (_, (expected, _)) = results(name)
    for path, value in flat(expected).items():
        np.testing.assert_allclose(flat(after)[path], value, rtol=1e-5, atol=2e-5)


@over_cases
def test_its_gradients_are_those_of_the_masked_dense_layer(name):
    ((of_params, of_hidden), _), ((expected, of_hidden_expected), _) = results(name)
    pairs = flat(expected) | flat(of_hidden_expected)
    got = flat(of_params) | flat(of_hidden)
    assert got.keys() == pairs.keys()
    for path, gradient in pairs.items():
        scale = max(1.0, np.abs(gradient).max())
        np.testing.assert_allclose(
            got[path], gradient, rtol=1e-4, atol=1e-5 * scale, err_msg=path
        )
        # Routers and towers alike learn something here.
        assert np.abs(gradient).max() > 1e-4, path


def test_hiding_the_keys_matters():
    case = case_of("gate, one stream")
    kept = case.expected_kept()
    everything = jax.tree.map(lambda kept_BT: kept_BT | True, kept)
    oracle = jax.jit(case.oracle, compiler_options=QUICK_TO_COMPILE)
    hidden = flat(oracle(kept, case.variables["params"], case.hidden))
    shown = flat(oracle(everything, case.variables["params"], case.hidden))
    for path, kept_BT in flat(kept).items():
        difference = np.abs(np.asarray(hidden[path] - shown[path]))
        assert difference[kept_BT].max() > 1e-2
