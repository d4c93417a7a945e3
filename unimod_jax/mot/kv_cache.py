"""One layer's keys and values of the tokens so far, packed stream by stream.

Rows are written at their own pace: a token that this row lacks, or that a router keeps
out of this layer, takes no place. Nothing else has to know where a token went, because
attention sees by positions and windows. Keys are stored rotated.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unimod_jax.layout import AttentionGeometry
from unimod_jax.mot.towers import Streams


class Keys(NamedTuple):
    """What queries look at, in any order along S.

    Attributes:
      key_BSGE: rotated keys.
      value_BSGE: their values.
      position_BS: int32 positions; -1 marks an empty place, which no query sees.
    """

    key_BSGE: jax.Array
    value_BSGE: jax.Array
    position_BS: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """The cache of one layer.

    Attributes:
      key_BSGE: rotated keys.
      value_BSGE: values.
      position_BS: int32 positions; -1 in places not written yet.
      used: stream -> int32 [B], written places of each row's region.
      regions: (stream, places) in the order in which they lie along S; static.
    """

    key_BSGE: jax.Array
    value_BSGE: jax.Array
    position_BS: jax.Array
    used: dict[str, jax.Array]
    regions: tuple[tuple[str, int], ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def empty(
        cls,
        regions: Sequence[tuple[str, int]],
        num_rows: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: jax.typing.DTypeLike,
    ) -> "LayerCache":
        """A cache with nothing written.

        Args:
          regions: (stream, how many tokens of a row it can hold), each stream once.
          num_rows: B.
          num_kv_heads: G.
          head_dim: E.
          dtype: of keys and values.
        """
        num_places = sum(size for _, size in regions)
        shape = (num_rows, num_places, num_kv_heads, head_dim)
        return cls(
            jnp.zeros(shape, dtype),
            jnp.zeros(shape, dtype),
            jnp.full((num_rows, num_places), -1, jnp.int32),
            {stream: jnp.zeros((num_rows,), jnp.int32) for stream, _ in regions},
            tuple((stream, size) for stream, size in regions),
        )

    @property
    def keys(self) -> Keys:
        """All places, for attention."""
        return Keys(self.key_BSGE, self.value_BSGE, self.position_BS)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, also of abstract ones."""
        leaves = jax.tree.leaves(self)
        return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)

    def room(self, stream: str) -> jax.Array:
        """How many more tokens of a stream each row can hold, int32 [B]."""
        return dict(self.regions)[stream] - self.used[stream]

    def append(
        self, key: Streams, value: Streams, geometry: dict[str, AttentionGeometry]
    ) -> "LayerCache":
        """The cache after some more tokens.

        Valid tokens (position >= 0) take the next free places of their row in their
        stream's region, in the order given; once it is full the others are dropped, so
        nobody will see them.

        Args:
          key, value: stream -> [B, T, G, E], keys rotated; any dtype.
          geometry: stream -> geometry of the same tokens.

        Raises:
          ValueError: for a stream without a region.
        """
        if unknown := [stream for stream in key if stream not in self.used]:
            raise ValueError(
                f"the cache has no region for {unknown}; it was made with "
                f"{self.regions}."
            )
        places, used, start = [], dict(self.used), 0
        for stream, size in self.regions:
            if stream in key:
                valid_BT = geometry[stream].position_BT >= 0
                nth_BT = used[stream][:, None] + jnp.cumsum(valid_BT, 1, jnp.int32) - 1
                fits_BT = valid_BT & (nth_BT < size)
                # Past the end of S: dropped by the writes below.
                places.append(jnp.where(fits_BT, start + nth_BT, self._num_places))
                used[stream] += jnp.sum(fits_BT, axis=1, dtype=jnp.int32)
            start += size
        place_BT = jnp.concatenate(places, axis=1)
        row_B1 = jnp.arange(place_BT.shape[0])[:, None]

        def written(old: jax.Array, new: list[jax.Array]) -> jax.Array:
            new_BT = jnp.concatenate(new, axis=1).astype(old.dtype)
            return old.at[row_B1, place_BT].set(new_BT, mode="drop")

        order = [stream for stream, _ in self.regions if stream in key]
        return LayerCache(
            written(self.key_BSGE, [key[stream] for stream in order]),
            written(self.value_BSGE, [value[stream] for stream in order]),
            written(self.position_BS, [geometry[s].position_BT for s in order]),
            used,
            self.regions,
        )

    @property
    def _num_places(self) -> int:
        return self.position_BS.shape[-1]
