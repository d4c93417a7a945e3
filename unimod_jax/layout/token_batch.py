"""The batch: a small dictionary of task groups, each a few streams of tokens.

All arrays of a group share its rows B; a stream's arrays share its static slots T. The
layout rides along as static data, so a jitted function is compiled once per layout.
Fields are typed as the model sees them; on the host the same classes hold NumPy arrays.
"""

import dataclasses

import jax

from unimod_jax.layout.row_layout import RowLayout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionGeometry:
    """Where tokens stand and what they see; everything attention needs besides q, k, v.

    Attributes:
      position_BT: int32 sequence position; -1 marks an empty slot, which no query sees.
      window_start_BT: int32, first visible position.
      window_end_BT: int32, end (exclusive) of the visible positions.
      phase_BT2R: float32 rotary cosines and sines.
    """

    position_BT: jax.Array
    window_start_BT: jax.Array
    window_end_BT: jax.Array
    phase_BT2R: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenStream:
    """The tokens of one stream, in sequence order, all int32 [B, T].

    Attributes:
      token_id_BT: vocabulary id; the padding id in empty slots and continuous patches.
      modality_BT: index into `layout.modalities`; -1 in empty slots.
      target_id_BT: id the token predicts: its successor's, or its own if in place.
      target_modality_BT: the target's modality; -1 where there is nothing to predict.
      position_BT: sequence position; -1 in empty slots.
      window_start_BT, window_end_BT: what the token sees.
      patch_index_BT: raster index of an image token among the image tokens of its row;
        -1 for other tokens. Finds a continuous patch, and a learned image position.
    """

    token_id_BT: jax.Array
    modality_BT: jax.Array
    target_id_BT: jax.Array
    target_modality_BT: jax.Array
    position_BT: jax.Array
    window_start_BT: jax.Array
    window_end_BT: jax.Array
    patch_index_BT: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenGroup:
    """All rows of one task.

    Attributes:
      streams: stream name -> tokens, in the layout's order.
      patch_BNP: float32 image patches of the row in raster order, image after image; N
        may be 0.
      patch_time_BN: float32 in [0, 1], how far each patch is noised (1 = noise), one
        time per image; rows come clean from the host, at time 0.
      largest_time_BN: float32 in [0, 1], how far training may noise each patch; 0 where
        the row has no image.
      layout: static.
    """

    streams: dict[str, TokenStream]
    patch_BNP: jax.Array
    patch_time_BN: jax.Array
    largest_time_BN: jax.Array
    layout: RowLayout = dataclasses.field(metadata={"static": True})

    @property
    def num_rows(self) -> int:
        """Rows B of the group."""
        return self.patch_BNP.shape[0]

    def with_stream(self, name: str, **arrays: jax.Array) -> "TokenGroup":
        """Returns the group with some arrays of one stream replaced."""
        stream = dataclasses.replace(self.streams[name], **arrays)
        return dataclasses.replace(self, streams={**self.streams, name: stream})


type UnifiedBatch = dict[str, TokenGroup]
