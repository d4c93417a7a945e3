"""A model says the same whichever order its layouts choose for attention."""

import functools

import jax
import numpy as np
import pytest

from tests.models.random_rows import interleaved_layout, random_interleaving
from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    flat,
    random_variables,
    routed_in,
    tiny_spec,
)
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    AttentionOrder,
    InterleavedLayout,
)
from unimod_jax.models import UnifiedModel, empty_caches
from unimod_jax.mot import COMPONENTS

MODALITIES = (TEXT, IMAGE, SPEECH)
ROUTED = routed_in((1,), ("interleaved",), keep_ratio=0.5)


class InSequence(InterleavedLayout):
    """Rows as they are, in the order that long ones would choose."""

    @property
    def attention_order(self):
        return AttentionOrder(200, 100, 16)


def spec_of(**config):
    return tiny_spec(COMPONENTS, ROUTED, modalities=MODALITIES, **config)


def batch_of(spec, layout_class):
    layout = interleaved_layout(spec)
    layout = layout_class(layout.task, layout.streams, layout.slots)
    return {"interleaved": random_interleaving(layout)}


def loss(spec, state, batch, rngs, params):
    outputs, reports = UnifiedModel(spec).apply(
        {**state, "params": params}, batch, rngs=rngs
    )
    logits = outputs["interleaved"].logits
    total = sum(jax.numpy.mean(jax.numpy.sin(x)) for x in logits.values())
    return total, (logits, reports)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dense_and_routed_layers_are_the_same_in_both_orders(dropout):
    spec = spec_of(attention_dropout=dropout)
    rngs = {"dropout": jax.random.key(0)} if dropout else {}
    results = []
    for layout_class in (InterleavedLayout, InSequence):
        batch = batch_of(spec, layout_class)
        state = random_variables(spec, batch)
        params = state.pop("params")
        run = jax.jit(
            jax.value_and_grad(
                functools.partial(loss, spec, state, batch, rngs), has_aux=True
            ),
            compiler_options=QUICK_TO_COMPILE,
        )
        (_, (logits, reports)), gradient = run(params)
        kept = [report.kept_BT for report in reports[1]["interleaved"].values()]
        results.append((logits, flat(gradient), kept))
    assert all(0 < np.mean(kept) < 1 for kept in results[0][2])
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *results
    )


def sorts(program):
    """How often a jaxpr sorts, on its own and inside its scans."""
    own = sum(equation.primitive.name == "sort" for equation in program.eqns)
    inside = []
    for equation in program.eqns:
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                more, deeper = sorts(inner)
                inside += deeper
                if equation.primitive.name == "scan":
                    inside.append(more)
                else:
                    own += more
    return own, inside


@pytest.mark.parametrize(
    ("layout_class", "expected"), [(InterleavedLayout, 0), (InSequence, 2)]
)
def test_the_order_is_found_once_for_all_dense_layers(layout_class, expected):
    spec = tiny_spec(COMPONENTS, modalities=MODALITIES, num_layers=3)
    batch = batch_of(spec, layout_class)
    variables = random_variables(spec, batch)
    program = jax.make_jaxpr(UnifiedModel(spec).apply)(variables, batch)
    # A permutation and its inverse take two sorts.
    assert sorts(program.jaxpr) == (expected, [0])


def test_cached_decoding_keeps_the_order_of_arrival():
    spec = tiny_spec(COMPONENTS, modalities=MODALITIES)
    batch = batch_of(spec, InSequence)
    variables = random_variables(spec, batch)
    group = batch["interleaved"]
    caches = empty_caches(spec, group.layout, group.num_rows)
    extend = functools.partial(UnifiedModel(spec).apply, method="extend")
    program = jax.make_jaxpr(extend)(variables, group, caches)
    assert sorts(program.jaxpr) == (0, [0])
