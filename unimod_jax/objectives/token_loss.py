"""Cross-entropy over the streams of a task group, split by the target's modality."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from unimod_jax.layout import TokenGroup
from unimod_jax.models import GroupOutput
from unimod_jax.objectives.cross_entropy import cross_entropy, vocabulary_chunks


def token_loss(
    group: TokenGroup,
    output: GroupOutput,
    modality_weights: Mapping[str, float],
    z_loss: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted mean cross-entropy of a group's targets.

    Each target counts with its modality's weight: all 1 is plain next-token training,
    and Emu3's pre-training gives vision tokens 0.5. Only slots that may have a target
    meet the vocabulary, those of all streams at once.

    Args:
      group: whole rows; their streams hold `target_id_BT` and `target_modality_BT` (-1:
        no target).
      output: what the model says about them.
      modality_weights: modality -> weight of its targets; 1 for one not named.
      z_loss: weight of the squared logarithm of the softmax's normaliser, which keeps
        logits from drifting (Chameleon, 2405.09818, section 2.3: 1e-5).

    Returns:
      (float32 scalar, "<modality>_loss" -> unweighted mean cross-entropy of its
      targets, without z-loss) for the modalities that some stream can have targets of;
      a mean over no targets is 0.
    """
    modalities = group.layout.modalities
    loss_BT, log_z_BT, modality_BT = _target_losses(group, output)
    total = weight = num_targets = jnp.zeros((), jnp.float32)
    means = {}
    for index, name in enumerate(modalities):
        if name not in group.layout.target_modalities:
            continue
        is_target_BT = (modality_BT == index).astype(jnp.float32)
        summed, count = jnp.sum(loss_BT * is_target_BT), jnp.sum(is_target_BT)
        means[f"{name}_loss"] = summed / jnp.maximum(count, 1.0)
        total += modality_weights.get(name, 1.0) * summed
        weight += modality_weights.get(name, 1.0) * count
        num_targets += count
    loss = total / jnp.maximum(weight, 1e-6)
    if z_loss:
        is_target_BT = (modality_BT >= 0).astype(jnp.float32)
        penalty = jnp.sum(jnp.square(log_z_BT) * is_target_BT)
        loss += z_loss * penalty / jnp.maximum(num_targets, 1.0)
    return loss, means


def _target_losses(
    group: TokenGroup, output: GroupOutput
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cross-entropy, normaliser and target modality of all slots that may have targets.

    The streams are joined along T, so that the gradient of the head is written once.
    """
    hidden, targets, modalities = [], [], []
    for name, hidden_BTD in output.hidden.items():
        slots, stream = group.layout.predicting_slots(name), group.streams[name]
        hidden.append(hidden_BTD[:, slots])
        targets.append(stream.target_id_BT[:, slots])
        modalities.append(stream.target_modality_BT[:, slots])
    if not hidden:
        nothing_BT = jnp.zeros((group.num_rows, 0), jnp.float32)
        return nothing_BT, nothing_BT, nothing_BT.astype(jnp.int32)
    hidden_BTD = jnp.concatenate(hidden, axis=1)
    B, T, _ = hidden_BTD.shape
    chunks = vocabulary_chunks(B * T, output.head.kernel_DV.shape[1])
    target_BT, modality_BT = (
        jnp.concatenate(arrays, axis=1) for arrays in (targets, modalities)
    )
    return *cross_entropy(hidden_BTD, output.head, target_BT, chunks), modality_BT
