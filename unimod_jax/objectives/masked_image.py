"""Masked image tokens beside next-token text: Show-o (arXiv 2408.12528).

Rows that write an image hide a random share of its codes and predict them in place, the
image seeing itself in both directions; understanding rows show the whole image to every
token and predict the caption token by token.
"""

import dataclasses

import jax
import jax.numpy as jnp

from unimod_jax.layout import (
    RowLayout,
    SegmentSpec,
    TaskLayout,
    TokenGroup,
    UnifiedBatch,
    with_segments,
)
from unimod_jax.models import GroupOutput
from unimod_jax.objectives.objective import Noise, task_key
from unimod_jax.objectives.token_loss import LossSums, token_loss, token_sums


@dataclasses.dataclass(frozen=True)
class MaskedImage:
    """Masked-token image generation and causal text."""

    @property
    def continuous_images(self) -> bool:
        """Images enter as codes."""
        return False

    def check(self, layout: RowLayout) -> None:
        """Refuses packed documents, and codes that end their lines."""
        if not isinstance(layout, TaskLayout):
            raise ValueError(
                f"task {layout.task!r} has rows of documents, but masked-image "
                "training has none; choose NextToken or ImageDiffusion, or drop it."
            )
        for segment in layout.segments:
            if segment.line_length:
                raise ValueError(
                    f"data.image_line is {segment.line_length}, but only next-token "
                    "training reads images line by line; set it to 0."
                )

    def corrupt(
        self, batch: UnifiedBatch, key: jax.Array
    ) -> tuple[UnifiedBatch, Noise]:
        """Hides codes of images that are written, and perhaps a few of others."""
        return {
            task: _corrupted(group, task_key(key, task))
            for task, group in batch.items()
        }, {}

    def loss_sums(
        self, group: TokenGroup, output: GroupOutput, noise: jax.Array | None
    ) -> LossSums:
        """Cross-entropy of hidden codes, and of texts that are written."""
        del noise
        return token_sums(group, output)

    def loss_of(self, sums: LossSums) -> jax.Array:
        """Mean over the targets."""
        return token_loss(sums, {})


def _corrupted(group: TokenGroup, key: jax.Array) -> TokenGroup:
    """The group with codes of its images hidden, each image by a key of its own."""
    for index, segment in enumerate(with_segments(group.layout).segments):
        hidden_BN = _hidden(segment, group.num_rows, jax.random.fold_in(key, index))
        if hidden_BN is not None:
            group = hide_image_codes(group, segment.name, hidden_BN)
    return group


def _hidden(segment: SegmentSpec, num_rows: int, key: jax.Array) -> jax.Array | None:
    """Which codes of a segment to hide, boolean [B, N]; None for none at all."""
    shape = (num_rows, segment.num_slots)
    if segment.is_masked:
        return choose_hidden(shape, key)
    if segment.hidden_share:
        return jax.random.bernoulli(key, segment.hidden_share, shape)
    return None


def choose_hidden(shape: tuple[int, int], key: jax.Array) -> jax.Array:
    """Which codes of each row to hide, boolean [B, N], at least one a row.

    The share is cos(pi t / 2) with t uniform (MaskGIT's cosine schedule, as in Show-o's
    training code).
    """
    time_key, order_key = jax.random.split(key)
    time_B1 = jax.random.uniform(time_key, (shape[0], 1))
    num_hidden_B1 = jnp.round(shape[1] * jnp.cos(0.5 * jnp.pi * time_B1))
    order_BN = jax.random.uniform(order_key, shape)
    rank_BN = jnp.argsort(jnp.argsort(order_BN, axis=1), axis=1)
    return rank_BN.astype(jnp.float32) < jnp.maximum(num_hidden_B1, 1.0)


def hide_image_codes(
    group: TokenGroup, segment: str, hidden_BN: jax.Array
) -> TokenGroup:
    """Replaces image codes by the mask token; only hidden codes stay targets.

    Args:
      group: rows of fixed pieces.
      segment: name of an image.
      hidden_BN: boolean, the codes to hide.
    """
    stream_name, start, num_codes = with_segments(group.layout).slot_range(segment)
    stream = group.streams[stream_name]
    image = slice(start, start + num_codes)
    token_id_BN = jnp.where(
        hidden_BN, group.layout.special.mask, stream.token_id_BT[:, image]
    )
    target_BN = jnp.where(hidden_BN, stream.target_modality_BT[:, image], -1)
    return group.with_stream(
        stream_name,
        token_id_BT=stream.token_id_BT.at[:, image].set(token_id_BN),
        target_modality_BT=stream.target_modality_BT.at[:, image].set(target_BN),
    )
