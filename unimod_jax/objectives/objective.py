"""What every objective offers: which rows it trains, what it corrupts, its loss."""

import zlib
from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp

from unimod_jax.layout import RowLayout, TokenGroup, UnifiedBatch
from unimod_jax.models import GroupOutput
from unimod_jax.objectives.token_loss import Z_LOSS, LossSums

type Metrics = dict[str, jax.Array]
"""Name -> float32 scalar, such as "text_to_image/image_loss"."""

type Noise = dict[str, jax.Array]
"""Task -> the noise added to its patches, float32 [B, N, P]; empty without any."""


class Objective(Protocol):
    """A training objective: frozen, hashable, pure."""

    @property
    def continuous_images(self) -> bool:
        """Whether images enter as real-valued patches instead of codes."""
        ...

    def check(self, layout: RowLayout) -> None:
        """Refuses rows that it cannot train, with a ValueError that says why."""
        ...

    def corrupt(
        self, batch: UnifiedBatch, key: jax.Array
    ) -> tuple[UnifiedBatch, Noise]:
        """The batch the model sees (masked, noised, or as it is), and the noise."""
        ...

    def loss_sums(
        self, group: TokenGroup, output: GroupOutput, noise: jax.Array | None
    ) -> LossSums:
        """The parts of a task's loss by name, such as "image_loss", summed over rows.

        Rows without targets add nothing, and parts of all rows add up.
        """
        ...

    def loss_of(self, sums: LossSums) -> jax.Array:
        """A task's loss, of its parts."""
        ...


def task_key(key: jax.Array, task: str) -> jax.Array:
    """A random key of a task's own, whatever other tasks there are."""
    return jax.random.fold_in(key, zlib.crc32(task.encode()))


def task_loss(objective: Objective, sums: LossSums) -> tuple[jax.Array, Metrics]:
    """A task's loss, and the means that are reported of its parts.

    Args:
      objective: of the task.
      sums: from its `loss_sums`, of all rows.
    """
    means = {name: part.mean for name, part in sums.items() if name != Z_LOSS}
    return objective.loss_of(sums), means


def total_loss(
    objective: Objective,
    seen: UnifiedBatch,
    noise: Noise,
    outputs: Mapping[str, GroupOutput],
    task_weights: Mapping[str, float],
) -> tuple[jax.Array, Metrics]:
    """The weighted sum of all tasks' losses, and every part of it.

    Args:
      objective: whose task losses to sum.
      seen: the corrupted batch.
      noise: what `corrupt` added.
      outputs: task -> the model's output on `seen`.
      task_weights: task -> weight of its loss (`Task.loss_weight`).

    Returns:
      (float32 scalar, metrics named "<task>/<part>").
    """
    total, metrics = jnp.zeros((), jnp.float32), {}
    for task, group in seen.items():
        sums = objective.loss_sums(group, outputs[task], noise.get(task))
        loss, parts = task_loss(objective, sums)
        metrics[f"{task}/loss"] = loss
        metrics |= {f"{task}/{name}": value for name, value in parts.items()}
        total += task_weights[task] * loss
    return total, metrics
