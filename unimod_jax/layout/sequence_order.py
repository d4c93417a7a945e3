"""A row's tokens in the order of their positions, and back: two maps, gathers only.

Streams store a row modality by modality. Where a layout's `attention_order` says so,
attention reads its tokens as a sequence; the pair of inverse maps makes both ways, and
the gradients of both, gathers.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from pallas_kernels.inverse_gather import inverse_gather
from unimod_jax.layout.attention_order import join_order
from unimod_jax.layout.token_batch import AttentionGeometry


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceOrder:
    """A permutation of a row's slots, its streams joined by `join_order`.

    Attributes:
      index_BT: int32, the slot that stands at each place of the sequence.
      place_BT: int32, the place in the sequence of each slot.
    """

    index_BT: jax.Array
    place_BT: jax.Array

    def to_sequence(self, x: jax.Array) -> jax.Array:
        """Joined streams [B, T, ...] by ascending position, empty slots last."""
        return inverse_gather(
            x, self.index_BT, self.place_BT, bounds="promise_in_bounds"
        )

    def to_storage(self, x: jax.Array) -> jax.Array:
        """Undoes `to_sequence`."""
        return inverse_gather(
            x, self.place_BT, self.index_BT, bounds="promise_in_bounds"
        )


def sequence_order(geometry: Mapping[str, AttentionGeometry]) -> SequenceOrder:
    """The order of some tokens, whole rows or what a router keeps of them.

    Args:
      geometry: stream -> geometry of its tokens.
    """
    positions = [geometry[name].position_BT for name in join_order(geometry)]
    position_BT = jnp.concatenate(positions, axis=1)
    last = jnp.iinfo(jnp.int32).max
    index_BT = jnp.argsort(jnp.where(position_BT < 0, last, position_BT), axis=1)
    return SequenceOrder(index_BT, jnp.argsort(index_BT, axis=1))
