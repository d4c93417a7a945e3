"""Selection: from scores to a static number of kept tokens, in sequence order.

A selection is a pair of inverse index maps. `index_BC` reads the kept tokens out of a
row, `slot_BT` reads a token's result back; a place that holds nothing points one past
the end, where reads give zero. Both directions, and both their gradients, are gathers.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Selection:
    """Which tokens of each row a layer keeps.

    Attributes:
      index_BC: int32, the token in each capacity place, ascending; T where unused.
      slot_BT: int32, the capacity place of each token; C where skipped.
    """

    index_BC: jax.Array
    slot_BT: jax.Array

    @property
    def kept_BT(self) -> jax.Array:
        """Boolean: whether each token is kept."""
        return self.slot_BT < self.index_BC.shape[1]


def pack(
    wanted_BT: jax.Array, capacity: int, room_B: jax.Array | None = None
) -> Selection:
    """Keeps wanted tokens first come, first served, up to the capacity.

    Whether a token is kept depends on it and on earlier tokens of its row only.

    Args:
      wanted_BT: boolean.
      capacity: C, static.
      room_B: int32, how many more tokens each row may keep, where a cache holds those
        kept before; None for whole rows, limited by the capacity alone.
    """
    num_wanted_BT = jnp.cumsum(wanted_BT.astype(jnp.int32), axis=1)
    limit_B1 = _limit(wanted_BT, capacity, room_B)
    kept_BT = wanted_BT & (num_wanted_BT <= limit_B1)
    slot_BT = jnp.where(kept_BT, num_wanted_BT - 1, capacity)
    # The c-th kept token stands after all tokens that count fewer than c kept ones.
    # Comparing all pairs fuses into one reduction; a binary search is a loop.
    num_kept_BT = jnp.minimum(num_wanted_BT, limit_B1)
    place_1C1 = jnp.arange(1, capacity + 1, dtype=jnp.int32)[None, :, None]
    before_BCT = num_kept_BT[:, None, :] < place_1C1
    index_BC = jnp.sum(before_BCT.astype(jnp.int32), axis=-1)
    return Selection(index_BC, slot_BT)


def _limit(row_BT: jax.Array, capacity: int, room_B: jax.Array | None) -> jax.Array:
    """Tokens each row may keep, int32 [B, 1]."""
    if room_B is None:
        return jnp.full((row_BT.shape[0], 1), capacity, jnp.int32)
    return jnp.clip(room_B, 0, capacity)[:, None]


def num_to_keep(keep_ratio: float, num_valid: jax.Array) -> jax.Array:
    """ceil(keep_ratio * number of valid tokens), int32, shaped like `num_valid`."""
    # The tolerance keeps 0.2 * 15 at three tokens in float32.
    share = keep_ratio * num_valid.astype(jnp.float32) - 1e-4
    return jnp.ceil(share).astype(jnp.int32)


def select_above(
    score_BT: jax.Array,
    valid_BT: jax.Array,
    threshold: jax.Array,
    capacity: int,
    room_B: jax.Array | None = None,
) -> Selection:
    """Causal rule: keep a token whose score passes a threshold fixed beforehand.

    Args:
      score_BT: float32.
      valid_BT: boolean, false in empty slots, which are never kept.
      threshold: float32 scalar.
      capacity: C, static; later tokens of a row that overflows it are skipped.
      room_B: as for `pack`.
    """
    return pack(valid_BT & (score_BT > threshold[None, None]), capacity, room_B)


def select_top_k(
    score_BT: jax.Array,
    valid_BT: jax.Array,
    keep_ratio: float,
    capacity: int,
    room_B: jax.Array | None = None,
) -> Selection:
    """UniMoD's rule: keep the highest scores of a row; it sees the whole row.

    Each row keeps ceil(keep_ratio * its valid tokens), so padding is neither kept nor
    counted. Ties go to the earlier token.

    Args:
      score_BT: float32.
      valid_BT: boolean, false in empty slots.
      keep_ratio: share of the valid tokens to keep.
      capacity: C, static, at most T.
      room_B: as for `pack`; a row with less room keeps its best tokens only.
    """
    floor = jnp.finfo(jnp.float32).min
    score_BT = jnp.where(valid_BT, score_BT, floor)
    num_valid_B1 = jnp.sum(valid_BT.astype(jnp.int32), axis=1, keepdims=True)
    num_kept_B1 = jnp.minimum(
        num_to_keep(keep_ratio, num_valid_B1), _limit(valid_BT, capacity, room_B)
    )
    best_BC = jax.lax.top_k(score_BT, capacity)[0]
    last_B1 = jnp.take_along_axis(best_BC, jnp.maximum(num_kept_B1 - 1, 0), axis=1)
    above_BT = score_BT > last_B1
    tied_BT = (score_BT == last_B1).astype(jnp.int32)
    num_tied_B1 = num_kept_B1 - jnp.sum(
        above_BT.astype(jnp.int32), axis=1, keepdims=True
    )
    wins_tie_BT = (tied_BT > 0) & (jnp.cumsum(tied_BT, axis=1) <= num_tied_B1)
    return pack(valid_BT & (above_BT | wins_tie_BT), capacity)
