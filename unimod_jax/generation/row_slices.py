"""Parts of rows as groups of their own: what is before a segment, and single slots."""

import dataclasses
from collections.abc import Mapping

import jax

from unimod_jax.layout import TaskLayout, TokenGroup


def slots_before(layout: TaskLayout, segment: str) -> dict[str, int]:
    """Stream -> how many of its slots stand before a segment; KeyError if unknown."""
    slots: dict[str, int] = {}
    for spec in layout.segments[: layout.segments.index(layout.segment(segment))]:
        stream = layout.stream_of(spec).name
        slots[stream] = slots.get(stream, 0) + spec.num_slots
    return slots


def slots_of(
    group: TokenGroup, ranges: Mapping[str, tuple[int | jax.Array, int]]
) -> TokenGroup:
    """The group with some slots of some streams only.

    Args:
      group: whole rows; patches come along whole.
      ranges: stream -> (first slot, how many); the first may be traced.
    """
    streams = {
        name: jax.tree.map(
            lambda array, start=start, size=size: jax.lax.dynamic_slice_in_dim(
                array, start, size, axis=1
            ),
            group.streams[name],
        )
        for name, (start, size) in ranges.items()
    }
    return dataclasses.replace(group, streams=streams)


def without_patches(group: TokenGroup) -> TokenGroup:
    """The group for slots that are no patches, which then need not be projected."""
    return dataclasses.replace(
        group,
        patch_BNP=group.patch_BNP[:, :0],
        patch_time_BN=group.patch_time_BN[:, :0],
        largest_time_BN=group.largest_time_BN[:, :0],
    )
