"""Next-token prediction over text and image codes: Chameleon (2405.09818) and Emu3.

Every token but what is always given is predicted by the one before it; a dropped prompt
trains classifier-free guidance.
"""

import dataclasses

import jax

from unimod_jax.layout import IMAGE, RowLayout, TaskLayout, TokenGroup, UnifiedBatch
from unimod_jax.models import GroupOutput
from unimod_jax.objectives.objective import Noise
from unimod_jax.objectives.token_loss import LossSums, token_loss, token_sums


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Causal language modelling of everything.

    Attributes:
      image_weight: weight of an image token's loss beside a text token's 1; Emu3
        pre-trains with 0.5.
      z_loss: weight of the z-loss; Chameleon trains with 1e-5.
    """

    image_weight: float = 0.5
    z_loss: float = 0.0

    @property
    def continuous_images(self) -> bool:
        """Images enter as codes."""
        return False

    def check(self, layout: RowLayout) -> None:
        """Refuses pieces that are predicted in place, and codes that are hidden."""
        segments = layout.segments if isinstance(layout, TaskLayout) else ()
        for segment in segments:
            if segment.is_masked or segment.hidden_share:
                raise ValueError(
                    f"the piece {segment.name!r} of task {layout.task!r} is predicted "
                    f"by {segment.predicted_by!r} with hidden_share "
                    f"{segment.hidden_share}, but next-token training hides nothing; "
                    "let its predecessor predict it, or choose MaskedImage."
                )

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
