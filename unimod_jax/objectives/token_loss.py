"""Cross-entropy over the streams of a task group, split by the target's modality.

Losses are summed first and divided last, so that rows taken in parts are the mean over
all of them once their sums are added.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from unimod_jax.layout import TokenGroup
from unimod_jax.models import GroupOutput
from unimod_jax.objectives.cross_entropy import cross_entropy, vocabulary_chunks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossSum:
    """A loss over some targets, before it is divided by how many there are.

    Attributes:
      total: float32 scalar, the sum.
      count: float32 scalar, of how many.
    """

    total: jax.Array
    count: jax.Array

    @property
    def mean(self) -> jax.Array:
        """The mean; 0 over nothing."""
        return self.total / jnp.maximum(self.count, 1.0)


type LossSums = dict[str, LossSum]
"""What a task's loss is made of, by name, such as "image_loss"."""

Z_LOSS = "z_loss"


def token_sums(
    group: TokenGroup, output: GroupOutput, *, with_z_loss: bool = False
) -> LossSums:
    """Cross-entropy of a group's targets, summed by modality.

    Only slots that may have a target meet the vocabulary, those of all streams at once.

    Args:
      group: whole rows; their streams hold `target_id_BT` and `target_modality_BT` (-1:
        no target).
      output: what the model says about them.
      with_z_loss: whether to add the squared logarithm of the softmax's normaliser, as
        `Z_LOSS`.

    Returns:
      "<modality>_loss" -> the sum, for the modalities that some stream can have targets
      of.
    """
    loss_BT, log_z_BT, modality_BT = _target_losses(group, output)
    sums: LossSums = {}
    num_targets = jnp.zeros((), jnp.float32)
    for index, name in enumerate(group.layout.modalities):
        if name not in group.layout.target_modalities:
            continue
        is_target_BT = (modality_BT == index).astype(jnp.float32)
        count = jnp.sum(is_target_BT)
        sums[f"{name}_loss"] = LossSum(jnp.sum(loss_BT * is_target_BT), count)
        num_targets += count
    if with_z_loss:
        is_target_BT = (modality_BT >= 0).astype(jnp.float32)
        penalty = jnp.sum(jnp.square(log_z_BT) * is_target_BT)
        sums[Z_LOSS] = LossSum(penalty, num_targets)
    return sums


def token_loss(
    sums: LossSums, modality_weights: Mapping[str, float], z_loss: float = 0.0
) -> jax.Array:
    """Weighted mean cross-entropy of targets.

    Each target counts with its modality's weight: all 1 is plain next-token training,
    and Emu3's pre-training gives vision tokens 0.5.

    Args:
      sums: from `token_sums`.
      modality_weights: modality -> weight of its targets; 1 for one not named.
      z_loss: weight of `Z_LOSS`, which keeps logits from drifting (Chameleon,
        2405.09818, section 2.3: 1e-5).
    """
    total = weight = jnp.zeros((), jnp.float32)
    for name, part in sums.items():
        if name != Z_LOSS:
            modality_weight = modality_weights.get(name.removesuffix("_loss"), 1.0)
            total += modality_weight * part.total
            weight += modality_weight * part.count
    loss = total / jnp.maximum(weight, 1e-6)
    if z_loss:
        loss += z_loss * sums[Z_LOSS].total / jnp.maximum(sums[Z_LOSS].count, 1.0)
    return loss


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
