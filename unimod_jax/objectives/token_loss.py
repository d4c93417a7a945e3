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
    z_loss: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted mean cross-entropy of a group's targets.

    Each target counts with its modality's weight: all 1 is plain next-token training,
    and Emu3's pre-training gives vision tokens 0.5.

    Args:
      group: its streams hold `target_id_BT` and `target_modality_BT` (-1: no target).
      logits: stream -> float32 [B, T, V].
      modality_weights: modality -> weight of its targets; 1 for one not named.
      z_loss: weight of the squared logarithm of the softmax's normaliser, which keeps
        logits from drifting (Chameleon, 2405.09818, section 2.3: 1e-5).

    Returns:
      (float32 scalar, "<modality>_loss" -> unweighted mean cross-entropy of its
      targets, without z-loss) for the modalities that some stream can have targets of;
      a mean over no targets is 0.
    """
    modalities = group.layout.modalities
    weights = {name: modality_weights.get(name, 1.0) for name in modalities}
    total = {name: jnp.zeros((), jnp.float32) for name in modalities}
    count = {name: jnp.zeros((), jnp.float32) for name in modalities}
    penalty = jnp.zeros((), jnp.float32)
    for stream_name, logits_BTV in logits.items():
        stream = group.streams[stream_name]
        loss_BT = optax.softmax_cross_entropy_with_integer_labels(
            logits_BTV, stream.target_id_BT
        )
        for index, name in enumerate(modalities):
            is_target_BT = (stream.target_modality_BT == index).astype(jnp.float32)
            total[name] += jnp.sum(loss_BT * is_target_BT)
            count[name] += jnp.sum(is_target_BT)
        if z_loss:
            is_target_BT = (stream.target_modality_BT >= 0).astype(jnp.float32)
            log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
            penalty += jnp.sum(jnp.square(log_z_BT) * is_target_BT)
    weighted = sum(w * total[name] for name, w in weights.items())
    weight = sum(w * count[name] for name, w in weights.items())
    predicted = group.layout.target_modalities
    means = {
        f"{name}_loss": total[name] / jnp.maximum(count[name], 1.0)
        for name in modalities
        if name in predicted
    }
    loss = weighted / jnp.maximum(weight, 1e-6)
    num_targets = jnp.maximum(sum(count.values()), 1.0)
    return loss + z_loss * penalty / num_targets, means
