"""From a task to the static layout of its rows: pieces get their slots."""

import dataclasses

from unimod_jax.layout.interleaved import InterleavedLayout
from unimod_jax.layout.modality import IMAGE, SPEECH, Stream
from unimod_jax.layout.special_tokens import SpecialTokens
from unimod_jax.layout.task import Piece, Task
from unimod_jax.layout.task_layout import SegmentSpec, TaskLayout


@dataclasses.dataclass(frozen=True)
class PartSizes:
    """How many slots the parts of records take, where a piece does not say.

    Attributes:
      text_tokens: slots of a text; one that is written has one more, for its end.
      image_codes: discrete codes of an image.
      image_patches: continuous patches of an image.
      continuous: whether images enter as patches instead of codes.
      image_line: codes per line of an image, if a token ends each; 0 for no lines.
      patch_size: P, values of a continuous patch.
      speech_units: slots of an utterance; one that is written has one more.
    """

    text_tokens: int
    image_codes: int = 0
    image_patches: int = 0
    continuous: bool = False
    image_line: int = 0
    patch_size: int = 0
    speech_units: int = 0

    @property
    def image_slots(self) -> int:
        """Slots of an image: its patches, or its codes and the end of each line."""
        if self.continuous:
            return self.image_patches
        lines = self.image_codes // self.image_line if self.image_line else 0
        return self.image_codes + lines

    def of(self, piece: Piece) -> int:
        """Slots of a piece."""
        if piece.ids:
            return len(piece.ids)
        if piece.modality == IMAGE:
            return self.image_slots
        default = self.speech_units if piece.modality == SPEECH else self.text_tokens
        return (piece.num_slots or default) + piece.written


def rows_of_task(
    task: Task,
    sizes: PartSizes,
    streams: tuple[Stream, ...],
    special: SpecialTokens | None = None,
) -> TaskLayout | InterleavedLayout:
    """The layout of a task's rows.

    Args:
      task: what a row is.
      sizes: slots of what records fill.
      streams: how the model stores modalities.
      special: ids of the markers; this library's own unless given.

    Raises:
      ValueError: for modalities that no stream stores, pieces without slots, markers
        that the vocabulary does not have, or document rows without whole images.
    """
    special = special or SpecialTokens()
    if task.documents is not None:
        rows = task.documents
        return InterleavedLayout(
            task.name,
            streams,
            rows.slots,
            patches_per_image=sizes.image_patches if sizes.continuous else 0,
            patch_size=sizes.patch_size if sizes.continuous else 0,
            bidirectional=rows.bidirectional,
            line_length=0 if sizes.continuous else sizes.image_line,
            shuffled=rows.shuffled,
            captioned_time=rows.captioned_time,
            documents_per_row=rows.documents_per_row,
            special=special,
        )
    return TaskLayout(
        task.name,
        tuple(_segment(piece, sizes) for piece in task.pieces),
        streams,
        prefix_segment=task.prefix or None,
        reads_whole_row=task.reads_whole_row,
        special=special,
    )


def _segment(piece: Piece, sizes: PartSizes) -> SegmentSpec:
    is_image = piece.modality == IMAGE
    fields = {f.name: getattr(piece, f.name) for f in dataclasses.fields(Piece)}
    fields["num_slots"] = sizes.of(piece)
    return SegmentSpec(
        **fields,
        continuous=is_image and sizes.continuous,
        line_length=0 if sizes.continuous else sizes.image_line * is_image,
    )
