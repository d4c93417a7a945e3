"""Our models compute what the reference models computed, at every stage."""

import functools

import jax
import numpy as np
import pytest

from tests.convert.golden_models import (
    NEW_TOKENS,
    WEIGHTS_OF,
    arrays,
    assert_close,
    dense,
    logits_of,
    one_token,
    row_layout,
    rows,
    spec,
)
from tests.models.tiny_model import QUICK_TO_COMPILE, by_position
from unimod_jax.generation.bound_model import BoundModel
from unimod_jax.models import UnifiedModel
from unimod_jax.models.transformer import Transformer

MODELS = tuple(WEIGHTS_OF)
UNSEEN = {"chameleon": slice(64, 80), "chameleon_swin": slice(64, 80)}
"""Transformers' Chameleon never writes image codes as text."""


@functools.cache
def hidden_states(name):
    """Our hidden states in sequence order, under the golden names."""
    of = spec(name)
    group, variables = rows(name, of), dense(name)
    model = UnifiedModel(of).bind(variables)
    hidden, geometry = model._enter({"interleaved": group})
    c = of.config
    layer = Transformer(c, of.designs[:1], of.streams)
    apply = jax.jit(layer.apply, compiler_options=QUICK_TO_COMPILE)
    stages = {"embedding": hidden}
    stacked = variables["params"]["transformer"]["run_0"]
    for n in range(c.num_layers):
        own = {"run_0": jax.tree.map(lambda leaf, n=n: leaf[n : n + 1], stacked)}
        hidden, _, _ = apply({"params": own}, hidden, geometry)
        stages[f"block_{n}"] = hidden
    return {
        stage: by_position(group, states["interleaved"])
        for stage, states in stages.items()
    }


@pytest.mark.parametrize("stage", ["embedding", "block_0", "block_1", "block_2"])
@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_the_references(name, stage):
    expected = arrays(name)[stage]
    found = hidden_states(name)[stage][:, : expected.shape[1]]
    for row, length in enumerate(arrays(name)["lengths"]):
        assert_close(found[row, :length], expected[row, :length])


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_references(name):
    of = spec(name)
    found = logits_of(of, dense(name), rows(name, of))
    expected = arrays(name)["logits"]
    for row, length in enumerate(arrays(name)["lengths"]):
        assert_close(found[row, :length], expected[row, :length])


@pytest.mark.parametrize("name", MODELS)
def test_decoding_with_a_cache_writes_what_the_reference_wrote(name):
    of = spec(name)
    bound, group = BoundModel(UnifiedModel(of), dense(name)), rows(name, of)
    extend = jax.jit(BoundModel.extend_to_last, compiler_options=QUICK_TO_COMPILE)
    position_B = arrays(name)["lengths"].copy()
    caches = bound.empty_caches(row_layout(of), group.num_rows)
    logits_BV, caches = extend(bound, group, caches)
    written = []
    for _ in range(NEW_TOKENS):
        allowed = np.array(logits_BV)
        allowed[:, UNSEEN.get(name, slice(0, 0))] = -np.inf
        id_B = allowed.argmax(axis=1)
        written.append(id_B)
        token = one_token(group, id_B, position_B)
        logits_BV, caches = extend(bound, token, caches)
        position_B += 1
    np.testing.assert_array_equal(np.stack(written, axis=1), arrays(name)["greedy"])


def test_the_two_orders_of_norms_share_weights_and_differ_in_what_they_compute():
    pre, swin = arrays("chameleon"), arrays("chameleon_swin")
    np.testing.assert_array_equal(pre["embedding"], swin["embedding"])
    assert np.abs(pre["block_0"] - swin["block_0"]).max() > 1
