"""What the model and the losses need to know of a layout, whatever kind it is.

`TaskLayout` has named segments in a fixed order; `InterleavedLayout` has only counts
per modality. Both are static: hashable, known to the compiler, equal for every row.
"""

from typing import Protocol

from unimod_jax.layout.attention_order import AttentionOrder
from unimod_jax.layout.modality import Stream
from unimod_jax.layout.special_tokens import SpecialTokens


class RowLayout(Protocol):
    """The static shape of one task group; frozen and hashable."""

    @property
    def task(self) -> str:
        """The task's name, such as "text_to_image"."""
        ...

    @property
    def streams(self) -> tuple[Stream, ...]:
        """How modalities are stored, whether this task has tokens of them or not."""
        ...

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of `streams` in stream order; `modality_BT` indexes them."""
        ...

    @property
    def special(self) -> SpecialTokens:
        """Ids of the markers, the mask and the ends of lines."""
        ...

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Names of the streams that hold at least one slot of this task."""
        ...

    def num_tokens(self, stream: str) -> int:
        """How many slots a stream has per row."""
        ...

    @property
    def row_length(self) -> int:
        """Slots per row, over all streams."""
        ...

    @property
    def num_patches(self) -> int:
        """Continuous patches per row, N."""
        ...

    @property
    def patches_per_image(self) -> int:
        """Continuous patches per image, dividing `num_patches`; 0 without any."""
        ...

    @property
    def target_modalities(self) -> frozenset[str]:
        """Modalities of the tokens that the vocabulary head predicts."""
        ...

    @property
    def attention_order(self) -> AttentionOrder:
        """In which order attention reads whole rows, and the counts that decided it."""
        ...

    def is_causal(self, stream: str) -> bool:
        """Whether a stream's tokens are revealed one by one, as in decoding."""
        ...

    def predicts(self, stream: str) -> bool:
        """Whether the vocabulary head has anything to read in a stream."""
        ...

    def predicting_slots(self, stream: str) -> slice:
        """The shortest range of a stream's slots outside of which none has a target."""
        ...

    def holds_patches(self, stream: str) -> bool:
        """Whether some slots of a stream are continuous patches."""
        ...
