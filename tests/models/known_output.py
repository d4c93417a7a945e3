"""Outputs whose logits are given: hidden states that an identity head reads out."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from unimod_jax.models import GroupOutput, VocabularyMap


def output_with(
    logits: Mapping[str, jax.Array],
    patches: Mapping[str, jax.Array] | None = None,
    vocabulary_size: int = 1,
) -> GroupOutput:
    """An output that says these logits.

    Args:
      logits: stream -> [B, T, V].
      patches: stream -> [B, T, P].
      vocabulary_size: V, where there are no logits that say it.
    """
    hidden = {name: jnp.asarray(x, jnp.float32) for name, x in logits.items()}
    sizes = {x.shape[-1] for x in hidden.values()} or {vocabulary_size}
    (width,) = sizes
    return GroupOutput(hidden, VocabularyMap(jnp.eye(width)), dict(patches or {}))
