"""What is added to growing rows, as groups: one token per row, or one image per row.

The rows are of an `InterleavedLayout`; a slot without a token is an empty slot.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from unimod_jax.generation.row_slices import without_patches
from unimod_jax.layout import (
    IMAGE,
    PADDING,
    SPEECH,
    TEXT,
    InterleavedLayout,
    TokenGroup,
    TokenStream,
)


def interleaved_layout(rows: TokenGroup) -> InterleavedLayout:
    """The layout of rows that can grow; ValueError for rows of fixed segments."""
    if not isinstance(rows.layout, InterleavedLayout):
        raise ValueError(
            f"rows of task {rows.layout.task!r} have a {type(rows.layout).__name__}, "
            f"which fixes what comes next; give rows of an InterleavedLayout, or fill "
            f"a segment with decode_segment."
        )
    return rows.layout


def last_tokens(rows: TokenGroup) -> tuple[jax.Array, jax.Array]:
    """(id of each row's last token, its position), int32 [B]."""
    streams = rows.streams.values()
    position_BT = jnp.concatenate([s.position_BT for s in streams], axis=1)
    token_id_BT = jnp.concatenate([s.token_id_BT for s in streams], axis=1)
    last_B1 = jnp.argmax(position_BT, axis=1)[:, None]
    return (
        jnp.take_along_axis(token_id_BT, last_B1, axis=1)[:, 0],
        jnp.take_along_axis(position_BT, last_B1, axis=1)[:, 0],
    )


def room_left(rows: TokenGroup) -> dict[str, jax.Array]:
    """Modality -> slots that the tokens of each row leave free, int32 [B]."""
    layout = interleaved_layout(rows)
    room = {}
    for modality in (TEXT, IMAGE, SPEECH):
        taken_B = jnp.zeros((rows.num_rows,), jnp.int32)
        if modality in layout.modalities:
            index = layout.modalities.index(modality)
            for stream in rows.streams.values():
                taken_B += jnp.sum(stream.modality_BT == index, axis=1, dtype=jnp.int32)
        room[modality] = layout.num_slots(modality) - taken_B
    return room


def one_token_each(
    rows: TokenGroup,
    token_id_B: jax.Array,
    modality: Mapping[str, jax.Array],
    position_B: jax.Array,
    raster_B: jax.Array,
) -> TokenGroup:
    """One more token of each row, in the stream of its modality.

    Every stream gets one slot, which is empty in the rows whose token is of another
    modality: rows need not agree on what comes next.

    Args:
      rows: what they are to be added to.
      token_id_B: int32.
      modality: modality -> boolean [B], which tokens are of it.
      position_B: int32; -1 adds nothing to a row.
      raster_B: int32, raster index of an image code; -1 for other tokens.
    """
    layout = interleaved_layout(rows)
    streams = {}
    for stream in layout.streams:
        if stream.name not in layout.stream_names:
            continue
        modality_B = jnp.full_like(position_B, -1)
        for name in stream.modalities:
            here_B = modality[name] & (position_B >= 0)
            modality_B = jnp.where(here_B, layout.modalities.index(name), modality_B)
        streams[stream.name] = _stream(
            modality_B[:, None] >= 0,
            token_id_BT=token_id_B[:, None],
            modality_BT=modality_B[:, None],
            position_BT=position_B[:, None],
            window_end_BT=position_B[:, None] + 1,
            patch_index_BT=raster_B[:, None],
        )
    return without_patches(dataclasses.replace(rows, streams=streams))


def one_image_each(
    rows: TokenGroup, position_B: jax.Array, drawn_B: jax.Array
) -> TokenGroup:
    """One continuous image per row, which sees itself whole, with zeros for patches.

    Args:
      rows: what they are to be added to.
      position_B: int32, of each image's first patch.
      drawn_B: boolean; a row that gets no image gets empty slots.
    """
    layout = interleaved_layout(rows)
    num_patches = layout.patches_per_image
    raster_1N = jnp.arange(num_patches, dtype=jnp.int32)[None, :]
    stream = _stream(
        jnp.broadcast_to(drawn_B[:, None], (rows.num_rows, num_patches)),
        token_id_BT=jnp.full_like(raster_1N, PADDING),
        modality_BT=jnp.full_like(raster_1N, layout.modalities.index(IMAGE)),
        position_BT=position_B[:, None] + raster_1N,
        window_end_BT=position_B[:, None] + num_patches,
        patch_index_BT=raster_1N,
    )
    name = next(name for name in layout.stream_names if layout.holds_patches(name))
    time_BN = jnp.zeros((rows.num_rows, num_patches), jnp.float32)
    patch_BNP = jnp.zeros((*time_BN.shape, layout.patch_size), jnp.float32)
    return TokenGroup({name: stream}, patch_BNP, time_BN, time_BN, layout)


def _stream(
    held_BT: jax.Array,
    *,
    token_id_BT: jax.Array,
    modality_BT: jax.Array,
    position_BT: jax.Array,
    window_end_BT: jax.Array,
    patch_index_BT: jax.Array,
) -> TokenStream:
    """Tokens that see all of their row up to an end; empty slots where none is held."""

    def slots(value_BT: jax.Array, empty: int) -> jax.Array:
        return jnp.where(held_BT, value_BT, empty).astype(jnp.int32)

    nothing_BT = jnp.full(held_BT.shape, -1, jnp.int32)
    return TokenStream(
        token_id_BT=slots(token_id_BT, PADDING),
        modality_BT=slots(modality_BT, -1),
        target_id_BT=jnp.full_like(nothing_BT, PADDING),
        target_modality_BT=nothing_BT,
        position_BT=slots(position_BT, -1),
        window_start_BT=jnp.zeros_like(nothing_BT),
        window_end_BT=slots(window_end_BT, 0),
        patch_index_BT=slots(patch_index_BT, -1),
    )
