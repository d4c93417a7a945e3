"""A task's static layout: which segments a row has, and which slots they fill.

Every row of a task group has the same segments with the same number of *slots*, so all
shapes are known to the compiler. How many of a segment's slots hold a token (a short
caption leaves some empty), and at which sequence position, is data.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from unimod_jax.layout.attention_order import (
    AttentionOrder,
    attention_order,
    join_order,
)
from unimod_jax.layout.modality import SPEECH, Stream, modalities_of
from unimod_jax.layout.row_layout import RowLayout
from unimod_jax.layout.special_tokens import SpecialTokens
from unimod_jax.layout.task import Piece
from unimod_jax.layout.visibility import document_windows


@dataclasses.dataclass(frozen=True)
class SegmentSpec(Piece):
    """A piece of a row with its slots counted: one stretch of every row of a group.

    Attributes:
      num_slots: how many tokens it can hold; static, at least 1.
      continuous: its tokens are image patches of real values, not vocabulary ids.
      line_length: after this many tokens the end of a line has a slot of its own
        (Emu3's images); 0 for none.
    """

    continuous: bool = False
    line_length: int = 0

    @property
    def is_masked(self) -> bool:
        """Whether its codes are hidden and predicted in place."""
        return self.predicted_by == "itself" and not self.continuous


class SegmentEnds(NamedTuple):
    """Where windows end, as positions.

    Attributes:
      span: segment of a span -> end of the span that it is in.
      prefix: end of the prefix that every token sees; 0 without one.
    """

    span: Mapping[str, int]
    prefix: int


@dataclasses.dataclass(frozen=True)
class TaskLayout:
    """The static shape of one task group.

    Attributes:
      task: the task's name, such as "text_to_image".
      segments: in sequence order.
      streams: how modalities are stored; every segment's modality is in one of them.
      prefix_segment: every token sees up to the end of this segment (Show-o's
        understanding rows see their whole image), or None.
      reads_whole_row: generation always has the whole row before it (MaskGIT), so a
        router may rank all of it; otherwise selection in causal streams may not look
        ahead.
      special: ids of the markers.
    """

    task: str
    segments: tuple[SegmentSpec, ...]
    streams: tuple[Stream, ...]
    prefix_segment: str | None = None
    reads_whole_row: bool = False
    special: SpecialTokens = SpecialTokens()

    def __post_init__(self) -> None:
        """Checks streams, sizes of images, fixed ids, and the marker of line ends."""
        for segment in self.segments:
            self.stream_of(segment)
            if segment.num_slots < 1:
                raise ValueError(
                    f"segment {segment.name!r} of task {self.task!r} has "
                    f"{segment.num_slots} slots; give it at least one."
                )
        sizes = {segment.num_slots for segment in self.segments if segment.continuous}
        if len(sizes) > 1:
            raise ValueError(
                f"task {self.task!r} has continuous images of {sorted(sizes)} patches; "
                "give all images of a row the same number."
            )
        for segment in self.segments:
            if segment.ids and len(segment.ids) != segment.num_slots:
                raise ValueError(
                    f"segment {segment.name!r} of task {self.task!r} has "
                    f"{segment.num_slots} slots for ids {list(segment.ids)}; give it "
                    "one slot for each."
                )
            purpose = f"task {self.task!r}"
            if segment.line_length:
                self.special.require("end_of_line", purpose)
            if segment.is_masked:
                self.special.require("mask", purpose)
            if segment.written and segment.modality == SPEECH:
                self.special.require("end_speech", purpose)

    def stream_of(self, segment: SegmentSpec) -> Stream:
        """Returns the stream that stores a segment; ValueError if none does."""
        for stream in self.streams:
            if segment.modality in stream.modalities:
                return stream
        raise ValueError(
            f"segment {segment.name!r} of task {self.task!r} has modality "
            f"{segment.modality!r}, which no stream stores; streams hold "
            f"{[stream.modalities for stream in self.streams]}."
        )

    def segments_of(self, stream: str) -> tuple[SegmentSpec, ...]:
        """Returns the segments stored in a stream, in sequence order."""
        return tuple(s for s in self.segments if self.stream_of(s).name == stream)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of `streams` in stream order; `modality_BT` indexes them."""
        return modalities_of(self.streams)

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Names of the streams that hold at least one slot of this task."""
        return tuple(s.name for s in self.streams if self.segments_of(s.name))

    def num_tokens(self, stream: str) -> int:
        """Returns how many slots a stream has per row."""
        return sum(segment.num_slots for segment in self.segments_of(stream))

    @property
    def row_length(self) -> int:
        """Slots per row, over all streams."""
        return sum(segment.num_slots for segment in self.segments)

    @property
    def num_patches(self) -> int:
        """Continuous patches per row."""
        return sum(s.num_slots for s in self.segments if s.continuous)

    @property
    def patches_per_image(self) -> int:
        """Continuous patches of each continuous segment; 0 without any."""
        return max((s.num_slots for s in self.segments if s.continuous), default=0)

    def holds_patches(self, stream: str) -> bool:
        """Whether some segment of a stream is continuous."""
        return any(segment.continuous for segment in self.segments_of(stream))

    @property
    def target_modalities(self) -> frozenset[str]:
        """Modalities of the segments that the vocabulary head predicts."""
        return frozenset(
            segment.modality
            for segment in self.segments
            if segment.predicted_by != "nothing" and not segment.continuous
        )

    def segment_ends(self, num_tokens: Mapping[str, int]) -> SegmentEnds:
        """Where windows end in a row whose segments hold so many tokens each.

        Args:
          num_tokens: segment name -> tokens, for every segment.
        """
        end, prefix = 0, 0
        span: dict[str, int] = {}
        open_span: list[SegmentSpec] = []
        for segment in self.segments:
            end += num_tokens[segment.name]
            if not open_span or open_span[-1].span != segment.span:
                open_span = []
            open_span = [*open_span, segment] if segment.span else []
            span |= dict.fromkeys((each.name for each in open_span), end)
            if segment.name == self.prefix_segment:
                prefix = end
        return SegmentEnds(span, prefix)

    @property
    def attention_order(self) -> AttentionOrder:
        """In which order attention reads whole rows: counted in one without gaps."""
        return _counted_order(self)

    def is_causal(self, stream: str) -> bool:
        """Whether a stream's tokens are revealed one by one, as in decoding.

        They are not where they all stand in one bidirectional span.
        """
        stored = [
            index
            for index, segment in enumerate(self.segments)
            if self.stream_of(segment).name == stream
        ]
        stretch = self.segments[min(stored) : max(stored) + 1] if stored else ()
        spans = {segment.span for segment in stretch}
        return not self.reads_whole_row and ("" in spans or len(spans) > 1)

    def predicts(self, stream: str) -> bool:
        """Whether the vocabulary head has anything to read in a stream."""
        slots = self.predicting_slots(stream)
        return slots.stop > slots.start

    def predicting_slots(self, stream: str) -> slice:
        """The shortest range of a stream's slots outside of which none has a target.

        Which slot predicts a segment's first token depends on how full the segments
        before it are. Fixed segments and those of one slot are markers, and always hold
        their tokens; `lay_out` refuses documents without one that this relies on.
        """
        return _predicting_slots(self).get(stream, slice(0, 0))

    def segment(self, name: str) -> SegmentSpec:
        """Returns a segment by name; KeyError for one that the task does not have."""
        for segment in self.segments:
            if segment.name == name:
                return segment
        raise KeyError(
            f"task {self.task!r} has no segment {name!r}; it has "
            f"{[segment.name for segment in self.segments]}."
        )

    def patch_range(self, segment_name: str) -> tuple[int, int]:
        """(first patch, patches) of a continuous segment, among those of its row.

        Raises KeyError for a segment that the task does not have.
        """
        found, first = self.segment(segment_name), 0
        for segment in self.segments:
            if segment.name == segment_name:
                break
            first += segment.num_slots * segment.continuous
        return first, found.num_slots

    def slot_range(self, segment_name: str) -> tuple[str, int, int]:
        """Returns (stream name, first slot, number of slots) of a segment.

        Raises KeyError for a segment that the task does not have.
        """
        stream = self.stream_of(self.segment(segment_name)).name
        start = 0
        for segment in self.segments_of(stream):
            if segment.name == segment_name:
                break
            start += segment.num_slots
        return stream, start, self.segment(segment_name).num_slots


@functools.cache
def _counted_order(layout: TaskLayout) -> AttentionOrder:
    num_slots = {segment.name: segment.num_slots for segment in layout.segments}
    ends, joined = layout.segment_ends(num_slots), join_order(layout.stream_names)
    stream = [joined.index(layout.stream_of(s).name) for s in layout.segments]
    span_end = [ends.span.get(segment.name, 0) for segment in layout.segments]
    slots = list(num_slots.values())
    windows = document_windows(
        np.arange(layout.row_length),
        np.repeat(span_end, slots),
        prefix_end=ends.prefix,
    )
    return attention_order(np.repeat(stream, slots), *windows)


@functools.cache
def _predicting_slots(layout: TaskLayout) -> dict[str, slice]:
    """Stream -> the shortest range that holds all its predicting slots, if any."""
    ranges: dict[str, slice] = {}
    for index in range(len(layout.segments)):
        for name, first, count in _readers(layout, index):
            stream, start, _ = layout.slot_range(name)
            here = slice(start + first, start + first + count)
            held = ranges.setdefault(stream, here)
            ranges[stream] = slice(
                min(held.start, here.start), max(held.stop, here.stop)
            )
    return ranges


def _readers(layout: TaskLayout, index: int) -> list[tuple[str, int, int]]:
    """(segment, first slot in it, slots) from which a segment may be predicted."""
    segment = layout.segments[index]
    if segment.continuous or segment.predicted_by == "nothing":
        return []
    if segment.predicted_by == "itself":
        return [(segment.name, 0, segment.num_slots)]
    readers = [(segment.name, 0, segment.num_slots - 1)]
    for previous in reversed(layout.segments[:index]):
        if previous.continuous or previous.ids:
            readers.append((previous.name, previous.num_slots - 1, 1))
            break
        readers.append((previous.name, 0, previous.num_slots))
        if previous.num_slots == 1:
            break
    return [reader for reader in readers if reader[2] > 0]


def with_segments(layout: RowLayout) -> TaskLayout:
    """The layout, known to have segments; TypeError for rows that have none."""
    if not isinstance(layout, TaskLayout):
        raise TypeError(
            f"task {layout.task!r} has rows without named segments; use a task that "
            "draws or captions one image per row."
        )
    return layout
