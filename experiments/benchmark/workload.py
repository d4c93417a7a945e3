"""What a benchmark trains: a published system, as it is or reduced.

Reduced on a CPU are width, heads, depth, vocabulary and rows per step. Never the plan
(which share of the depth routes how many tokens), the architecture, or what a row is
made of. Dropout is off: the published models are compared without it.
"""

import dataclasses
import math
from collections.abc import Mapping

from experiments.published import published, with_grey_images
from unimod_jax.layout import Task
from unimod_jax.training import Experiment


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a published system is made.

    Attributes:
      rows: task -> rows per step; tasks that are not named have none.
      width: D; 0 keeps everything of the model but its depth.
      num_layers: how many blocks; 0 keeps them all.
      head_dim: E of a reduced width.
      vocabulary_size: V of a reduced width.
      image_side: codes along a side of an image; 0 keeps the published number.
      dtype: of activations.
    """

    rows: Mapping[str, int]
    width: int = 0
    num_layers: int = 0
    head_dim: int = 64
    vocabulary_size: int = 2048
    image_side: int = 0
    dtype: str = "bfloat16"


def with_shares(tasks: tuple[Task, ...], shares: Mapping[str, int]) -> tuple[Task, ...]:
    """The tasks with these shares, and none where no share is named.

    Raises:
      ValueError: for a name that no task has.
    """
    if unknown := sorted(set(shares) - {task.name for task in tasks}):
        raise ValueError(
            f"there are no tasks {unknown} among {[task.name for task in tasks]}; "
            "name those."
        )
    return tuple(
        dataclasses.replace(task, share=shares.get(task.name, 0)) for task in tasks
    )


_TEXT_IDS = 512
"""Ids of text in a reduced vocabulary; the rest are for image codes."""


def sized(preset: str, variant: str, size: Size) -> Experiment:
    """A published system at another size, without dropout.

    Args:
      preset, variant: names as of `experiments.published`.
      size: how large.
    """
    whole = published(preset, variant)
    model, data = whole.model, whole.data
    num_layers = size.num_layers or model.num_layers
    changed = {}
    if size.width:
        num_heads = size.width // size.head_dim
        num_kv_heads = max(1, num_heads * model.num_kv_heads // model.num_heads)
        changed = {
            "width": size.width,
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
            "head_dim": size.head_dim,
            "feed_forward_hidden": model.hidden * size.width // model.width,
            "vocabulary_size": size.vocabulary_size,
        }
        data = dataclasses.replace(data, text_vocabulary_size=_TEXT_IDS)
    side = size.image_side or math.isqrt(data.num_image_codes)
    data = with_grey_images(data, side)
    return dataclasses.replace(
        whole,
        model=dataclasses.replace(
            model,
            num_layers=num_layers,
            compute_dtype=size.dtype,
            attention_dropout=0.0,
            residual_dropout=0.0,
            embedding_dropout=0.0,
            **changed,
        ),
        mod=whole.mod.at_depth(num_layers),
        data=dataclasses.replace(data, batch_size=sum(size.rows.values())),
        tasks=with_shares(whole.tasks, size.rows),
    )
