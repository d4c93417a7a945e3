"""From a document to the rows of streams: the host side, once per example, in NumPy.

A document gives each segment of its task's layout some tokens. `lay_out` numbers the
tokens in sequence order, derives windows and next-token targets there, and only then
deals them into streams (modality-major), so everything after it is order-free.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unimod_jax.layout.modality import IMAGE
from unimod_jax.layout.special_tokens import PADDING
from unimod_jax.layout.targets import next_token_targets
from unimod_jax.layout.task_layout import TaskLayout
from unimod_jax.layout.token_batch import TokenGroup, TokenStream
from unimod_jax.layout.visibility import document_windows

_FIELDS = tuple(field.name for field in dataclasses.fields(TokenStream))


@dataclasses.dataclass(frozen=True)
class Document:
    """One row before it is laid out.

    Attributes:
      tokens: segment name -> vocabulary ids; a continuous segment needs none.
      patch_NP: float32 values of the continuous segments' patches, in order.
    """

    tokens: Mapping[str, Sequence[int]]
    patch_NP: np.ndarray | None = None


def lay_out(document: Document, layout: TaskLayout) -> TokenGroup:
    """Lays one document out as a task group of a single row, without the axis B.

    Args:
      document: token ids per segment.
      layout: the task's static layout.

    Returns:
      A TokenGroup of NumPy arrays whose leading axis is T (stack rows to get B).

    Raises:
      ValueError: if a segment gets more tokens than it has slots, or is unknown, or if
        a marker is missing from which something else is predicted.
    """
    known = {segment.name for segment in layout.segments}
    if unknown := sorted(set(document.tokens) - known):
        raise ValueError(
            f"document has segments {unknown} that task {layout.task!r} does not; "
            f"use {sorted(known)}."
        )
    slots = _slots_in_sequence_order(document, layout)
    # Any: the fields are typed as jax.Array, and hold NumPy here (see `token_batch`).
    patch_NP: Any = document.patch_NP
    if patch_NP is None:
        patch_NP = np.zeros((layout.num_patches, 0), np.float32)
    largest_time = [
        np.full(segment.num_slots, segment.largest_time, np.float32)
        for segment in layout.segments
        if segment.continuous
    ]
    time_N: Any = np.zeros(layout.num_patches, np.float32)
    largest_time_N: Any = np.concatenate([time_N[:0], *largest_time])
    streams = {}
    for name in layout.stream_names:
        of_stream = slots["stream"] == layout.stream_names.index(name)
        arrays: dict[str, Any] = {field: slots[field][of_stream] for field in _FIELDS}
        _check_targets(arrays["target_modality_BT"], name, layout)
        streams[name] = TokenStream(**arrays)
    return TokenGroup(streams, patch_NP, time_N, largest_time_N, layout)


def _slots_in_sequence_order(
    document: Document, layout: TaskLayout
) -> dict[str, np.ndarray]:
    """Every slot of the row in sequence order: tokens, targets, positions, windows."""
    held_by = {s.name: _num_tokens(document, s.name, layout) for s in layout.segments}
    ends = layout.segment_ends(held_by)
    columns: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    next_position = next_patch = 0
    for segment in layout.segments:
        num_tokens = held_by[segment.name]
        slot = np.arange(segment.num_slots)
        held = slot < num_tokens
        token_id = np.full(segment.num_slots, PADDING)
        if not segment.continuous:
            token_id[:num_tokens] = document.tokens.get(segment.name, ())
        stream = layout.stream_names.index(layout.stream_of(segment).name)
        modality = np.where(held, layout.modalities.index(segment.modality), -1)
        discrete_target = held & (not segment.continuous)
        by = segment.predicted_by
        columns["stream"].append(np.full_like(slot, stream))
        columns["token_id_BT"].append(token_id)
        columns["modality_BT"].append(modality)
        columns["position_BT"].append(np.where(held, next_position + slot, -1))
        columns["by_predecessor"].append(discrete_target & (by == "predecessor"))
        columns["by_itself"].append(discrete_target & (by == "itself"))
        columns["span_end"].append(np.full_like(slot, ends.span.get(segment.name, 0)))
        is_image = segment.modality == IMAGE
        columns["patch_index_BT"].append(
            slot + next_patch if is_image else np.full_like(slot, -1)
        )
        next_position += num_tokens
        next_patch += segment.num_slots * is_image
    slots = {
        name: np.concatenate(column).astype(np.int32)
        for name, column in columns.items()
    }
    slots["window_start_BT"], slots["window_end_BT"] = document_windows(
        slots["position_BT"], slots["span_end"], prefix_end=ends.prefix
    )
    return slots | next_token_targets(slots)


def _check_targets(
    target_modality_T: np.ndarray, stream: str, layout: TaskLayout
) -> None:
    """Refuses targets in slots that the layout takes to predict nothing."""
    slots = layout.predicting_slots(stream)
    for slot in np.flatnonzero(target_modality_T >= 0):
        if not slots.start <= slot < slots.stop:
            raise ValueError(
                f"slot {slot} of stream {stream!r} of task {layout.task!r} predicts a "
                f"token, but only slots {slots.start} to {slots.stop - 1} may; give "
                "every segment of one slot its token."
            )


def _num_tokens(document: Document, segment_name: str, layout: TaskLayout) -> int:
    segment = layout.segment(segment_name)
    if segment.continuous:
        return segment.num_slots
    num_tokens = len(document.tokens.get(segment_name, ()))
    if num_tokens > segment.num_slots:
        raise ValueError(
            f"segment {segment_name!r} of task {layout.task!r} got {num_tokens} tokens "
            f"but has {segment.num_slots} slots; shorten it or enlarge its budget."
        )
    return num_tokens
