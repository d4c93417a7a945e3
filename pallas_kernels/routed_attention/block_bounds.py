"""Which blocks of queries and keys have to meet, from their bounds alone.

A block of keys has a smallest and a largest position, a block of queries a smallest and
a largest window start and end. Comparing them costs (T / query block) x (S / key block)
integers instead of T x S, holds for tokens in any order, and tells three kinds apart:
a block pair is *hidden* (no query sees a key: never visited), *whole* (every query sees
every key: no masking), or *partial*. In sequence order the bounds are nearly exact; in
other orders they visit more than they must, and stay correct.

Legend, beside that of `reference.py`: N blocks of queries, M blocks of keys; in a
schedule O outer blocks (one program or accumulator each) visit I inner blocks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_LATEST = jnp.iinfo(jnp.int32).max


class BlockMap(NamedTuple):
    """What is known of each pair of blocks; both bool `[B, N, M]`.

    `visible` pairs may hold a query that sees a key, all others hold none; in `whole`
    pairs, a subset of them, every query sees every key.
    """

    visible_BNM: jax.Array
    whole_BNM: jax.Array

    def transposed(self) -> "BlockMap":
        """The same pairs with key blocks first: `[B, M, N]`."""
        return BlockMap(*(kind.swapaxes(1, 2) for kind in self))


class BlockSchedule(NamedTuple):
    """Which inner blocks each outer block visits, those without a mask first.

    Entry `inner_BOI[b, o, n]` is visited iff `n < num_visited_BO[b, o]`, and needs no
    mask iff `n < num_whole_BO[b, o]`; within a kind the order is ascending. Entries
    beyond the visited ones are the hidden blocks, in range but not to be used.
    All int32.
    """

    inner_BOI: jax.Array
    num_whole_BO: jax.Array
    num_visited_BO: jax.Array


def pad_windows(window_BT: jax.Array, query_block: int) -> jax.Array:
    """Pad int32 `[B, T]` to whole blocks by repeating the last window.

    Padded queries then leave the bounds of their block alone. Their outputs are cut
    off, and with a zero cotangent they add nothing to the gradients of the keys.
    """
    padding = -window_BT.shape[1] % query_block
    return jnp.pad(window_BT, ((0, 0), (0, padding)), mode="edge")


def pad_positions(key_position_BS: jax.Array, key_block: int) -> jax.Array:
    """Pad int32 `[B, S]` to whole blocks with -1, which no window contains."""
    padding = -key_position_BS.shape[1] % key_block
    return jnp.pad(key_position_BS, ((0, 0), (0, padding)), constant_values=-1)


def block_map(
    window_start_BT: jax.Array,
    window_end_BT: jax.Array,
    key_position_BS: jax.Array,
    *,
    query_block: int,
    key_block: int,
) -> BlockMap:
    """Compare the bounds of every block of queries with those of every block of keys.

    Args:
      window_start_BT: int32 `[B, T]`; T need not be a multiple of the block.
      window_end_BT: int32 `[B, T]`.
      key_position_BS: int32 `[B, S]`, -1 for padding.
      query_block: queries per block.
      key_block: keys per block.

    Returns:
      The kinds of `[B, ceil(T / query_block), ceil(S / key_block)]` pairs.
    """
    position_BMC = _blocks(pad_positions(key_position_BS, key_block), key_block)
    start_BNQ = _blocks(pad_windows(window_start_BT, query_block), query_block)
    end_BNQ = _blocks(pad_windows(window_end_BT, query_block), query_block)
    start_BNQ = jnp.maximum(start_BNQ, 0)
    is_empty = start_BNQ >= end_BNQ
    # An empty window widens no bound of what is visible, and is never seen whole.
    start_BNQ = jnp.where(is_empty, _LATEST, start_BNQ)
    end_BNQ = jnp.where(is_empty, 0, end_BNQ)
    seen_from = jnp.where(position_BMC < 0, _LATEST, position_BMC).min(-1)[:, None]
    lowest, highest = position_BMC.min(-1)[:, None], position_BMC.max(-1)[:, None]

    visible_BNM = start_BNQ.min(-1)[..., None] <= highest
    visible_BNM &= seen_from < end_BNQ.max(-1)[..., None]
    whole_BNM = start_BNQ.max(-1)[..., None] <= lowest
    whole_BNM &= highest < end_BNQ.min(-1)[..., None]
    return BlockMap(visible_BNM, whole_BNM)


def block_schedule(pairs: BlockMap) -> BlockSchedule:
    """Order the inner (last) axis of a map for each outer block: whole, then partial.

    Pass `block_map(...)` for programs that own queries and visit keys, and its
    `transposed()` for programs that own keys and visit queries.
    """
    visible_BOI, whole_BOI = pairs
    kind_BOI = 2 - visible_BOI.astype(jnp.int32) - whole_BOI.astype(jnp.int32)
    inner_BOI = jnp.argsort(kind_BOI, axis=-1, stable=True).astype(jnp.int32)
    return BlockSchedule(
        inner_BOI,
        jnp.sum(whole_BOI, axis=-1, dtype=jnp.int32),
        jnp.sum(visible_BOI, axis=-1, dtype=jnp.int32),
    )


def _blocks(x_BT: jax.Array, block: int) -> jax.Array:
    return x_BT.reshape(x_BT.shape[0], -1, block)
