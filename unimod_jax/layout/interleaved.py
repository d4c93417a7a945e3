"""Rows of packed documents, whose modalities come in any order.

A document is a list of spans; a row holds several documents, one after another. How
many tokens of each modality a row can hold is static, where they stand is data: design
2 of Mixture-of-Transformers under a compiler, with `InterleavedLayout`s of other counts
beside it as design 3. Windows keep documents from seeing each other.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from unimod_jax.layout.attention_order import (
    AttentionOrder,
    attention_order,
    join_order,
)
from unimod_jax.layout.modality import IMAGE, SPEECH, Stream, modalities_of
from unimod_jax.layout.special_tokens import PADDING, SpecialTokens
from unimod_jax.layout.targets import next_token_targets
from unimod_jax.layout.task import Slots
from unimod_jax.layout.token_batch import TokenGroup, TokenStream
from unimod_jax.layout.typical_documents import typical_documents
from unimod_jax.layout.visibility import document_windows


@dataclasses.dataclass(frozen=True)
class InterleavedLayout:
    """The static shape of rows of packed documents.

    Attributes:
      task: the task's name, such as "interleaved".
      streams: how modalities are stored.
      slots: slots per modality; each modality is in one of the streams.
      patches_per_image: continuous patches per image; 0 where images are codes.
      patch_size: P, values of a continuous patch; 0 where images are codes.
      bidirectional: modalities whose spans see themselves in both directions, as images
        do in Transfusion; Chameleon has none.
      line_length: codes of an image between two ends of lines; 0 for none.
      shuffled: whether the parts of a document come in an order by chance.
      captioned_time: how far training may noise an image that no text precedes.
      causal: whether tokens are revealed one by one, so that a router may not look
        ahead; rows of several documents have no other generation.
      documents_per_row: about how many documents a row packs, which the counts do not
        say. It decides only in which order attention reads the rows.
      special: ids of the markers.
    """

    task: str
    streams: tuple[Stream, ...]
    slots: Slots
    patches_per_image: int = 0
    patch_size: int = 0
    bidirectional: tuple[str, ...] = ()
    line_length: int = 0
    shuffled: bool = False
    captioned_time: float = 1.0
    causal: bool = True
    documents_per_row: int = 1
    special: SpecialTokens = SpecialTokens()

    def __post_init__(self) -> None:
        """Checks that modalities are stored, images whole, and markers known."""
        for modality, _ in self.slots:
            if modality not in self.modalities:
                raise ValueError(
                    f"task {self.task!r} has slots for {modality!r}, which no stream "
                    f"stores; streams hold {list(self.modalities)}."
                )
        size, count = self.patches_per_image, self.num_slots(IMAGE)
        if size and (count % size or not self.patch_size):
            raise ValueError(
                f"task {self.task!r} has {count} image slots for images of {size} "
                f"patches of {self.patch_size} values; give whole images, and patches "
                "at least one value."
            )
        if self.documents_per_row < 1:
            raise ValueError(
                f"task {self.task!r} has {self.documents_per_row} documents per row; "
                "say how many a row typically packs, at least 1."
            )
        purpose = f"task {self.task!r}"
        if self.line_length:
            self.special.require("end_of_line", purpose)
        if self.num_slots(SPEECH):
            self.special.require("begin_speech", purpose)

    def num_slots(self, modality: str) -> int:
        """Slots per row of a modality; 0 for one that the rows do not hold."""
        return dict(self.slots).get(modality, 0)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of `streams` in stream order; `modality_BT` indexes them."""
        return modalities_of(self.streams)

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Names of the streams that hold at least one slot of this task."""
        return tuple(s.name for s in self.streams if self.num_tokens(s.name))

    def num_tokens(self, stream: str) -> int:
        """How many slots a stream has per row."""
        return sum(self.num_slots(modality) for modality in self._held_in(stream))

    @property
    def row_length(self) -> int:
        """Slots per row, over all streams."""
        return sum(count for _, count in self.slots)

    @property
    def num_patches(self) -> int:
        """Continuous patches per row."""
        return self.num_slots(IMAGE) if self.patches_per_image else 0

    @property
    def target_modalities(self) -> frozenset[str]:
        """Every modality that enters as vocabulary ids."""
        held = {modality for modality, count in self.slots if count}
        return frozenset(held - {IMAGE} if self.patches_per_image else held)

    @property
    def attention_order(self) -> AttentionOrder:
        """In which order attention reads whole rows: counted in a typical one.

        It is full and has `documents_per_row` documents. Where images are codes, each
        document has one image.
        """
        return _counted_order(self)

    def is_causal(self, stream: str) -> bool:
        """Whether a stream's tokens are revealed one by one: what `causal` says."""
        del stream
        return self.causal

    def predicts(self, stream: str) -> bool:
        """Whether the head reads a stream: any token may precede a predicted one."""
        return bool(self.num_tokens(stream) and self.target_modalities)

    def predicting_slots(self, stream: str) -> slice:
        """All slots of a stream that the head reads: where tokens stand is data."""
        return slice(0, self.num_tokens(stream) if self.predicts(stream) else 0)

    def holds_patches(self, stream: str) -> bool:
        """Whether a stream stores the continuous images."""
        return bool(self.num_patches) and IMAGE in self._held_in(stream)

    def _held_in(self, stream: str) -> tuple[str, ...]:
        return next((s.modalities for s in self.streams if s.name == stream), ())


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """A stretch of tokens of one modality.

    Attributes:
      modality: of all its tokens.
      tokens: vocabulary ids; none for continuous patches.
      bidirectional: its tokens see the whole span.
      predicted: whether the token before each of its tokens is trained to predict it.
      patches: float32 [N, P] of a continuous image, in place of tokens.
      largest_time: how far training may noise the patches.
    """

    modality: str
    tokens: Sequence[int]
    bidirectional: bool = False
    predicted: bool = True
    patches: np.ndarray | None = None
    largest_time: float = 1.0

    @property
    def num_tokens(self) -> int:
        """How many slots it takes."""
        return len(self.tokens) if self.patches is None else len(self.patches)


@dataclasses.dataclass(frozen=True, eq=False)
class InterleavedDocument:
    """Spans in sequence order; `name` is for messages."""

    spans: tuple[Span, ...]
    name: str = "this document"

    def num_tokens(self) -> dict[str, int]:
        """Tokens per modality, of the modalities it has."""
        count: collections.Counter[str] = collections.Counter()
        for span in self.spans:
            count[span.modality] += span.num_tokens
        return dict(+count)


def lay_out_documents(
    documents: Sequence[InterleavedDocument], layout: InterleavedLayout
) -> TokenGroup:
    """Lays documents out one after another as one row, without the axis B.

    Positions count on through the row. A token sees its own document up to itself, or
    to the end of its bidirectional span. The first token of a document is predicted by
    nothing, and the last predicts nothing.

    Args:
      documents: in row order; none gives an empty row.
      layout: the task's static layout.

    Returns:
      A TokenGroup of NumPy arrays whose leading axis is T (stack rows to get B).

    Raises:
      ValueError: if a modality has more tokens than slots, or an image the wrong size.
    """
    _check_fits(documents, layout)
    slots = _tokens_in_sequence_order(documents, layout)
    streams = {}
    for stream in layout.streams:
        if stream.name not in layout.stream_names:
            continue
        held = [layout.modalities.index(modality) for modality in stream.modalities]
        of_stream = np.flatnonzero(np.isin(slots["modality_BT"], held))
        arrays: dict[str, Any] = {}
        for field, empty in _EMPTY.items():
            arrays[field] = np.full(layout.num_tokens(stream.name), empty, np.int32)
            arrays[field][: len(of_stream)] = slots[field][of_stream]
        streams[stream.name] = TokenStream(**arrays)
    # Any: the fields are typed as jax.Array, and hold NumPy here (see `token_batch`).
    patch_NP: Any = np.zeros((layout.num_patches, layout.patch_size), np.float32)
    time_N: Any = np.zeros(layout.num_patches, np.float32)
    largest_time_N: Any = np.zeros(layout.num_patches, np.float32)
    spans = [span for document in documents for span in document.spans]
    images = [span for span in spans if span.patches is not None]
    for index, span in enumerate(images):
        size = layout.patches_per_image
        patch_NP[index * size : (index + 1) * size] = span.patches
        largest_time_N[index * size : (index + 1) * size] = span.largest_time
    return TokenGroup(streams, patch_NP, time_N, largest_time_N, layout)


_EMPTY = {
    "token_id_BT": PADDING,
    "modality_BT": -1,
    "target_id_BT": PADDING,
    "target_modality_BT": -1,
    "position_BT": -1,
    "window_start_BT": 0,
    "window_end_BT": 0,
    "patch_index_BT": -1,
}
"""What each field of a TokenStream holds in a slot without a token."""


def _tokens_in_sequence_order(
    documents: Sequence[InterleavedDocument], layout: InterleavedLayout
) -> dict[str, np.ndarray]:
    """Every token of the row in sequence order; there are no empty slots yet."""
    columns: dict[str, list[np.ndarray]] = {
        name: [np.zeros(0, np.int32)]
        for name in (*_EMPTY, "by_predecessor", "by_itself")
        if not name.startswith("target")
    }
    position = next_patch = 0
    for document in documents:
        document_start = position
        for span in document.spans:
            place = np.arange(span.num_tokens, dtype=np.int32)
            position_T = position + place
            position += span.num_tokens
            end_T = np.full_like(place, position * span.bidirectional)
            window = document_windows(position_T, end_T, document_start=document_start)
            ids = span.tokens if span.patches is None else PADDING
            is_discrete = span.predicted and span.patches is None
            is_image = span.modality == IMAGE
            modality = layout.modalities.index(span.modality)
            columns["token_id_BT"].append(
                np.broadcast_to(np.asarray(ids, np.int32), place.shape)
            )
            columns["modality_BT"].append(np.full_like(place, modality))
            columns["position_BT"].append(position_T)
            columns["window_start_BT"].append(window[0])
            columns["window_end_BT"].append(window[1])
            columns["patch_index_BT"].append(
                next_patch + place if is_image else np.full_like(place, -1)
            )
            columns["by_predecessor"].append(
                is_discrete * (position_T > document_start).astype(np.int32)
            )
            columns["by_itself"].append(np.zeros_like(place))
            next_patch += span.num_tokens * is_image
    slots = {name: np.concatenate(column) for name, column in columns.items()}
    return slots | next_token_targets(slots)


@functools.cache
def _counted_order(layout: InterleavedLayout) -> AttentionOrder:
    of_documents = typical_documents(
        layout.slots, layout.documents_per_row, layout.patches_per_image
    )
    documents = [
        InterleavedDocument(
            tuple(
                Span(modality, range(count), modality in layout.bidirectional)
                for modality, count in spans
            )
        )
        for spans in of_documents
    ]
    row = _tokens_in_sequence_order(documents, layout)
    joined = join_order(stream.name for stream in layout.streams)
    stream_of = [joined.index(s.name) for s in layout.streams for _ in s.modalities]
    return attention_order(
        np.asarray(stream_of)[row["modality_BT"]],
        row["window_start_BT"],
        row["window_end_BT"],
    )


def _check_fits(
    documents: Sequence[InterleavedDocument], layout: InterleavedLayout
) -> None:
    count: collections.Counter[str] = collections.Counter()
    wanted = (layout.patches_per_image, layout.patch_size)
    for document in documents:
        count.update(document.num_tokens())
        for span in document.spans:
            shape = (0, 0) if span.patches is None else span.patches.shape
            if shape != (wanted if span.modality == IMAGE else (0, 0)):
                raise ValueError(
                    f"a span of {document.name} of modality {span.modality!r} has "
                    f"patches of shape {shape}, but images of task {layout.task!r} "
                    f"have {wanted} and other spans none; make both from one config."
                )
    for modality, num_tokens in count.items():
        if num_tokens > layout.num_slots(modality):
            raise ValueError(
                f"{len(documents)} documents have {num_tokens} {modality} tokens but a "
                f"row of task {layout.task!r} has {layout.num_slots(modality)} slots; "
                "pack fewer, or enlarge the row."
            )
