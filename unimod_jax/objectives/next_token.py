"""Next-token prediction over text and image codes: Chameleon (2405.09818) and Emu3.

Everything is causal. Text-to-image rows put the prompt before the image,
image-to-text rows after it; a dropped prompt trains classifier-free guidance.
"""

import dataclasses

import jax

from unimod_jax.layout import (
    IMAGE,
    TEXT,
    InterleavedLayout,
    SegmentSpec,
    Stream,
    TaskLayout,
    TokenGroup,
    UnifiedBatch,
)
from unimod_jax.models import GroupOutput
from unimod_jax.objectives.objective import (
    IMAGE_TO_TEXT,
    INTERLEAVED,
    TEXT_ONLY,
    TEXT_TO_IMAGE,
    Metrics,
    Noise,
    SequenceSizes,
    TaskWeights,
)
from unimod_jax.objectives.token_loss import token_loss


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Causal language modelling of everything.

    Attributes:
      task_weights: weight of each task's loss.
      image_weight: weight of an image token's loss beside a text token's 1; Emu3
        pre-trains with 0.5.
      z_loss: weight of the z-loss; Chameleon trains with 1e-5.
    """

    task_weights: TaskWeights = TaskWeights()
    image_weight: float = 0.5
    z_loss: float = 0.0

    @property
    def continuous_images(self) -> bool:
        """Images enter as codes."""
        return False

    def layouts(
        self, sizes: SequenceSizes, streams: tuple[Stream, ...]
    ) -> dict[str, TaskLayout | InterleavedLayout]:
        """Rows of the three tasks and interleaved ones, all causal."""
        begin = SegmentSpec("begin", TEXT, 1, predicted_by="nothing")
        image = SegmentSpec(
            "image", IMAGE, sizes.image_slots, line_length=sizes.image_line
        )
        end_image = SegmentSpec("end_image", TEXT, 1)
        to_image = (
            begin,
            SegmentSpec("prompt", TEXT, sizes.caption_tokens),
            SegmentSpec("begin_image", TEXT, 1),
            image,
            end_image,
        )
        to_text = (
            begin,
            SegmentSpec("begin_image", TEXT, 1, predicted_by="nothing"),
            image,
            end_image,
            SegmentSpec("caption", TEXT, sizes.caption_tokens + 1),
        )
        text_only = (begin, SegmentSpec("text", TEXT, sizes.caption_tokens + 1))
        layouts: dict[str, TaskLayout | InterleavedLayout] = {
            TEXT_TO_IMAGE: TaskLayout(TEXT_TO_IMAGE, to_image, streams),
            IMAGE_TO_TEXT: TaskLayout(IMAGE_TO_TEXT, to_text, streams),
            TEXT_ONLY: TaskLayout(TEXT_ONLY, text_only, streams),
        }
        if sizes.interleaved_slots:
            layouts[INTERLEAVED] = InterleavedLayout(
                INTERLEAVED,
                streams,
                sizes.interleaved_slots,
                line_length=sizes.image_line,
                documents_per_row=sizes.interleaved_documents,
            )
        return layouts

    def corrupt(
        self, batch: UnifiedBatch, key: jax.Array
    ) -> tuple[UnifiedBatch, Noise]:
        """The model sees the batch as it is."""
        del key
        return batch, {}

    def task_loss(
        self, group: TokenGroup, output: GroupOutput, noise: jax.Array | None
    ) -> tuple[jax.Array, Metrics]:
        """Weighted mean cross-entropy of the task's targets."""
        del noise
        weights = {IMAGE: self.image_weight}
        return token_loss(group, output, weights, self.z_loss)
