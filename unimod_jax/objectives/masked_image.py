"""Masked image tokens beside next-token text: Show-o (arXiv 2408.12528).

Text-to-image rows hide a random share of the image codes and predict them in place,
the image seeing itself in both directions; understanding rows show the whole image to
every token and predict the caption token by token.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from unimod_jax.layout import (
    IMAGE,
    SegmentSpec,
    SpecialTokens,
    Stream,
    TaskLayout,
    Templates,
    TokenGroup,
    UnifiedBatch,
    masked_templates,
    with_segments,
)
from unimod_jax.layout.templates import Pieces
from unimod_jax.models import GroupOutput
from unimod_jax.objectives.objective import (
    IMAGE_TO_TEXT,
    TEXT_ONLY,
    TEXT_TO_IMAGE,
    Noise,
    SequenceSizes,
    TaskWeights,
)
from unimod_jax.objectives.segments import (
    only_what_is_written,
    seen_both_ways,
    segments_of,
)
from unimod_jax.objectives.token_loss import LossSums, token_loss, token_sums


@dataclasses.dataclass(frozen=True)
class MaskedImage:
    """Masked-token image generation and causal text.

    Attributes:
      task_weights: Show-o trains with 1, 1 and 0.1.
      understanding_hidden_share: share of the image codes that understanding rows hide
        too; 0 in Show-o, more keeps a small data set from being learned by heart.
    """

    task_weights: TaskWeights = TaskWeights()
    understanding_hidden_share: float = 0.0

    @property
    def continuous_images(self) -> bool:
        """Images enter as codes."""
        return False

    def layouts(
        self,
        sizes: SequenceSizes,
        streams: tuple[Stream, ...],
        templates: Templates | None = None,
    ) -> dict[str, TaskLayout]:
        """Rows of the three tasks, with Show-o's omni-attention as windows.

        Raises:
          ValueError: if the vocabulary has no mask token.
        """
        t = templates or masked_templates(SpecialTokens())
        t.special.require("mask", "masked-image training")
        hidden = SegmentSpec("image", IMAGE, sizes.image_tokens, predicted_by="itself")
        shown = dataclasses.replace(hidden, predicted_by="nothing")
        both_ways = ("begin_image", "image", "end_image")

        def row(
            task: str, pieces: Pieces, image: SegmentSpec, **visibility: Any
        ) -> TaskLayout:
            segments = segments_of(pieces, sizes, image, only_what_is_written)
            segments = seen_both_ways(segments, both_ways)
            return TaskLayout(task, segments, streams, special=t.special, **visibility)

        return {
            TEXT_TO_IMAGE: row(
                TEXT_TO_IMAGE, t.text_to_image, hidden, reads_whole_row=True
            ),
            IMAGE_TO_TEXT: row(
                IMAGE_TO_TEXT, t.image_to_text, shown, prefix_segment="end_image"
            ),
            TEXT_ONLY: row(TEXT_ONLY, t.text_only, shown),
        }

    def corrupt(
        self, batch: UnifiedBatch, key: jax.Array
    ) -> tuple[UnifiedBatch, Noise]:
        """Hides image codes of the text-to-image rows, and perhaps a few of others."""
        generation_key, understanding_key = jax.random.split(key)
        seen = dict(batch)
        if TEXT_TO_IMAGE in batch:
            group = batch[TEXT_TO_IMAGE]
            shape = (group.num_rows, with_segments(group.layout).slot_range("image")[2])
            hidden_BN = choose_hidden(shape, generation_key)
            seen[TEXT_TO_IMAGE] = hide_image_codes(group, hidden_BN)
        share = self.understanding_hidden_share
        if share and IMAGE_TO_TEXT in batch:
            group = batch[IMAGE_TO_TEXT]
            shape = (group.num_rows, with_segments(group.layout).slot_range("image")[2])
            hidden_BN = jax.random.bernoulli(understanding_key, share, shape)
            seen[IMAGE_TO_TEXT] = hide_image_codes(group, hidden_BN)
        return seen, {}

    def loss_sums(
        self, group: TokenGroup, output: GroupOutput, noise: jax.Array | None
    ) -> LossSums:
        """Cross-entropy of hidden codes, or of caption tokens."""
        del noise
        return token_sums(group, output)

    def loss_of(self, sums: LossSums) -> jax.Array:
        """Mean over the targets."""
        return token_loss(sums, {})


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


def hide_image_codes(group: TokenGroup, hidden_BN: jax.Array) -> TokenGroup:
    """Replaces image codes by the mask token; only hidden codes stay targets.

    Args:
      group: one image per row.
      hidden_BN: boolean, the codes to hide.
    """
    stream_name, start, num_codes = with_segments(group.layout).slot_range("image")
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
