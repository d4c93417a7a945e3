"""Next-token prediction over text and image codes: Chameleon (2405.09818) and Emu3.

Everything is causal. Text-to-image rows put the prompt before the image,
image-to-text rows after it; a dropped prompt trains classifier-free guidance.
"""

import dataclasses

import jax

from unimod_jax.layout import (
    IMAGE,
    InterleavedLayout,
    SegmentSpec,
    SpecialTokens,
    Stream,
    TaskLayout,
    Templates,
    TokenGroup,
    UnifiedBatch,
    causal_templates,
)
from unimod_jax.models import GroupOutput
from unimod_jax.objectives.objective import (
    IMAGE_TO_TEXT,
    INTERLEAVED,
    TEXT_ONLY,
    TEXT_TO_IMAGE,
    Noise,
    SequenceSizes,
    TaskWeights,
)
from unimod_jax.objectives.segments import all_but_what_is_given, segments_of
from unimod_jax.objectives.token_loss import LossSums, token_loss, token_sums


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
        self,
        sizes: SequenceSizes,
        streams: tuple[Stream, ...],
        templates: Templates | None = None,
    ) -> dict[str, TaskLayout | InterleavedLayout]:
        """Rows of the three tasks and interleaved ones, all causal."""
        t = templates or causal_templates(SpecialTokens())
        image = SegmentSpec(
            "image", IMAGE, sizes.image_slots, line_length=sizes.image_line
        )
        layouts: dict[str, TaskLayout | InterleavedLayout] = {
            task: TaskLayout(
                task,
                segments_of(pieces, sizes, image, all_but_what_is_given),
                streams,
                special=t.special,
            )
            for task, pieces in (
                (TEXT_TO_IMAGE, t.text_to_image),
                (IMAGE_TO_TEXT, t.image_to_text),
                (TEXT_ONLY, t.text_only),
            )
        }
        if sizes.interleaved_slots:
            layouts[INTERLEAVED] = InterleavedLayout(
                INTERLEAVED,
                streams,
                sizes.interleaved_slots,
                line_length=sizes.image_line,
                documents_per_row=sizes.interleaved_documents,
                special=t.special,
            )
        return layouts

    def corrupt(
        self, batch: UnifiedBatch, key: jax.Array
    ) -> tuple[UnifiedBatch, Noise]:
        """The model sees the batch as it is."""
        del key
        return batch, {}

    def loss_sums(
        self, group: TokenGroup, output: GroupOutput, noise: jax.Array | None
    ) -> LossSums:
        """Cross-entropy of the task's targets."""
        del noise
        return token_sums(group, output, with_z_loss=self.z_loss > 0)

    def loss_of(self, sums: LossSums) -> jax.Array:
        """Weighted mean over the targets."""
        return token_loss(sums, {IMAGE: self.image_weight}, self.z_loss)
