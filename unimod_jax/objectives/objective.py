"""What every objective offers, and the names of the tasks it trains together."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp

from unimod_jax.layout import (
    RowLayout,
    Slots,
    Stream,
    Templates,
    TokenGroup,
    UnifiedBatch,
)
from unimod_jax.models import GroupOutput
from unimod_jax.objectives.token_loss import Z_LOSS, LossSums

TEXT_TO_IMAGE = "text_to_image"
IMAGE_TO_TEXT = "image_to_text"
TEXT_ONLY = "text_only"
INTERLEAVED = "interleaved"
"""Packed documents of text, images and speech in any order; only where asked for."""
TASKS = (TEXT_TO_IMAGE, IMAGE_TO_TEXT, TEXT_ONLY)

type Metrics = dict[str, jax.Array]
"""Name -> float32 scalar, such as "text_to_image/image_loss"."""

type Noise = dict[str, jax.Array]
"""Task -> the noise added to its patches, float32 [B, N, P]; empty without any."""


@dataclasses.dataclass(frozen=True)
class SequenceSizes:
    """The slot counts layouts are made of.

    Attributes:
      caption_tokens: slots of a prompt; a caption has one more for its end token.
      image_tokens: discrete codes of an image.
      image_patches: continuous patches of an image.
      image_line: codes per line of an image, if a token ends each; 0 for no lines.
      patch_size: P, values of a continuous patch.
      interleaved_slots: (modality, slots) of rows of packed documents; empty without
        such rows.
      interleaved_documents: about how many documents such a row packs.
      question_tokens: slots of a question about an image, with the wording around it;
        0 without questions.
    """

    caption_tokens: int
    image_tokens: int
    image_patches: int
    image_line: int = 0
    patch_size: int = 0
    interleaved_slots: Slots = ()
    interleaved_documents: int = 1
    question_tokens: int = 0

    @property
    def image_slots(self) -> int:
        """Slots of a discrete image: its codes, and the end of each line."""
        lines = self.image_tokens // self.image_line if self.image_line else 0
        return self.image_tokens + lines


@dataclasses.dataclass(frozen=True)
class TaskWeights:
    """Weight of each task's loss in the sum that is trained on."""

    text_to_image: float = 1.0
    image_to_text: float = 1.0
    text_only: float = 0.1
    interleaved: float = 1.0

    def total(self, losses: Mapping[str, jax.Array]) -> jax.Array:
        """The weighted sum of task losses."""
        total = jnp.zeros((), jnp.float32)
        for task, loss in losses.items():
            total += getattr(self, task) * loss
        return total


class Objective(Protocol):
    """A training objective: frozen, hashable, pure."""

    @property
    def task_weights(self) -> TaskWeights:
        """Weight of each task's loss."""
        ...

    @property
    def continuous_images(self) -> bool:
        """Whether images enter as real-valued patches instead of codes."""
        ...

    def layouts(
        self,
        sizes: SequenceSizes,
        streams: tuple[Stream, ...],
        templates: Templates | None = None,
    ) -> Mapping[str, RowLayout]:
        """Task -> layout of its rows; None for the objective's own templates."""
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
) -> tuple[jax.Array, Metrics]:
    """The weighted sum of all tasks' losses, and every part of it.

    Args:
      objective: whose task losses to sum.
      seen: the corrupted batch.
      noise: what `corrupt` added.
      outputs: task -> the model's output on `seen`.

    Returns:
      (float32 scalar, metrics named "<task>/<part>").
    """
    losses, metrics = {}, {}
    for task, group in seen.items():
        sums = objective.loss_sums(group, outputs[task], noise.get(task))
        losses[task], parts = task_loss(objective, sums)
        metrics[f"{task}/loss"] = losses[task]
        metrics |= {f"{task}/{name}": value for name, value in parts.items()}
    return objective.task_weights.total(losses), metrics
