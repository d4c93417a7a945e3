"""From the pieces of a template to the segments of a layout.

A template says what stands where; how many slots it gets follows from the sizes, and
which slot predicts it from the objective.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from unimod_jax.layout import TEXT, Piece, SegmentSpec
from unimod_jax.layout.templates import Pieces
from unimod_jax.objectives.objective import SequenceSizes

type Predictor = Literal["predecessor", "itself", "nothing"]


def segments_of(
    pieces: Pieces,
    sizes: SequenceSizes,
    image: SegmentSpec,
    predicted_by: Callable[[Piece, Pieces], Predictor],
) -> tuple[SegmentSpec, ...]:
    """The segments of a row.

    Args:
      pieces: of the row's template.
      sizes: slots of what records fill.
      image: the image's segment, as the objective wants it.
      predicted_by: (a piece other than the image, its row) -> what predicts it.

    Raises:
      ValueError: if a row asks a question and the sizes have no slots for one.
    """
    segments = []
    for piece in pieces:
        if piece.name == "image":
            segments.append(image)
            continue
        segment = SegmentSpec(
            piece.name,
            TEXT,
            _num_slots(piece, sizes),
            predicted_by=predicted_by(piece, pieces),
            ids=piece.ids,
            wording=piece.wording,
        )
        segments.append(segment)
    return tuple(segments)


def seen_both_ways(
    segments: tuple[SegmentSpec, ...], names: tuple[str, ...]
) -> tuple[SegmentSpec, ...]:
    """The segments, those of some names bidirectional."""
    return tuple(
        dataclasses.replace(segment, bidirectional=True)
        if segment.name in names
        else segment
        for segment in segments
    )


def all_but_what_is_given(piece: Piece, pieces: Pieces) -> Predictor:
    """What next-token training predicts: everything but what is always given.

    Given is the first piece; in rows that write a text about an image also the question
    and every fixed piece but the one that ends the image.
    """
    if piece == pieces[0] or piece.name == "question":
        return "nothing"
    is_understanding = any(other.name == "caption" for other in pieces)
    if is_understanding and piece.ids and piece.name != "end_image":
        return "nothing"
    return "predecessor"


def only_what_is_written(piece: Piece, pieces: Pieces) -> Predictor:
    """Show-o's training (showlab/Show-o): captions and texts, and nothing around."""
    del pieces
    return "predecessor" if piece.name in ("caption", "text") else "nothing"


def _num_slots(piece: Piece, sizes: SequenceSizes) -> int:
    if piece.ids:
        return len(piece.ids)
    if piece.name == "question":
        if not sizes.question_tokens:
            raise ValueError(
                "the template of image_to_text asks a question, but there are no slots "
                "for one; set data.question_tokens."
            )
        return sizes.question_tokens
    return sizes.caption_tokens + (piece.name in ("caption", "text"))
