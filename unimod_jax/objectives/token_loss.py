"""Cross-entropy over the streams of a task group, split by the target's modality."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from unimod_jax.layout import TokenGroup


def token_loss(
    group: TokenGroup,
    logits: Mapping[str, jax.Array],
    modality_weights: Mapping[str, float],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted mean cross-entropy of a group's targets.

    Each target counts with its modality's weight: all 1 is plain next-token training,
    and Emu3's pre-training gives vision tokens 0.5.

    Args:
      group: its streams hold `target_id_BT` and `target_modality_BT` (-1: no target).
      logits: stream -> float32 [B, T, V].
      modality_weights: modality -> weight of its targets, in the order that
        `target_modality_BT` indexes.

    Returns:
      (float32 scalar, "<modality>_loss" -> unweighted mean cross-entropy of its
      targets) for the modalities that some stream can have targets of; a mean over no
      targets is 0.
    """
    total = {name: jnp.zeros((), jnp.float32) for name in modality_weights}
    count = {name: jnp.zeros((), jnp.float32) for name in modality_weights}
    for stream_name, logits_BTV in logits.items():
        stream = group.streams[stream_name]
        loss_BT = optax.softmax_cross_entropy_with_integer_labels(
            logits_BTV, stream.target_id_BT
        )
        for index, name in enumerate(modality_weights):
            is_target_BT = (stream.target_modality_BT == index).astype(jnp.float32)
            total[name] += jnp.sum(loss_BT * is_target_BT)
            count[name] += jnp.sum(is_target_BT)
    weighted = sum(w * total[name] for name, w in modality_weights.items())
    weight = sum(w * count[name] for name, w in modality_weights.items())
    predicted = group.layout.target_modalities
    means = {
        f"{name}_loss": total[name] / jnp.maximum(count[name], 1.0)
        for name in modality_weights
        if name in predicted
    }
    return weighted / jnp.maximum(weight, 1e-6), means
