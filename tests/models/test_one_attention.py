"""Tokens learn of each other in routed attention and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.random_rows import interleaved_layout, random_interleaving
from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    random_variables,
    routed_in,
    tiny_spec,
)
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.models import UnifiedModel, empty_caches
from unimod_jax.mot import COMPONENTS, attention

# Chosen by position alone, so that no token makes room for another.
ROUTED = routed_in(
    (1,), ("interleaved",), keep_ratio=0.5, scorer="random", score_weight="one"
)
SPEC = tiny_spec(COMPONENTS, ROUTED)
GROUP = random_interleaving(interleaved_layout(SPEC))
FIRST_TOKEN = (0, 0)


def outputs_of(method, variables, group):
    """Logits of all streams, of whole rows or of rows decoded into empty caches."""
    model = UnifiedModel(SPEC)
    if method == "extend":
        caches = empty_caches(SPEC, group.layout, group.num_rows)
        return model.apply(variables, group, caches, method=method)[0].logits
    return model.apply(variables, {"interleaved": group})[0]["interleaved"].logits


@pytest.mark.parametrize("method", ["__call__", "extend"])
def test_without_routed_attention_no_token_knows_of_another(method, monkeypatch):
    token_id_BT = GROUP.streams[TEXT].token_id_BT
    other = GROUP.with_stream(TEXT, token_id_BT=token_id_BT.at[FIRST_TOKEN].add(1))
    variables = random_variables(SPEC, {"interleaved": GROUP})

    def difference():
        run = jax.jit(
            lambda *arrays: outputs_of(method, *arrays),
            compiler_options=QUICK_TO_COMPILE,
        )
        pairs = jax.tree.map(
            lambda x, y: np.abs(np.asarray(x - y)).max(axis=-1),
            run(variables, GROUP),
            run(variables, other),
        )
        own = pairs[TEXT][FIRST_TOKEN]
        pairs[TEXT][FIRST_TOKEN] = 0.0
        return own, max(pairs[TEXT].max(), pairs[IMAGE].max())

    own, others = difference()
    assert own > 1e-3 and others > 1e-3
    monkeypatch.setattr(
        attention, "routed_attention", lambda q, *rest, **options: jnp.zeros_like(q)
    )
    own, others = difference()
    assert own > 1e-3 and others == 0.0
