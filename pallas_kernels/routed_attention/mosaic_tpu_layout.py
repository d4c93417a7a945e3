"""How the arrays of routed attention lie in a TPU's memory: heads first, whole blocks.

The R query heads that share a key/value head differ in nothing but their queries, so
they become R queries per token with the same window: each block of keys is then read
once for all of them, dk and dv add up over them as over any queries, and the matrix
unit sees tall blocks even when one token is decoded. From here on, T counts all of
these queries and G heads are left.

Legend: that of `reference.py` and `block_bounds.py`; T = R x query tokens where G comes
before it, N blocks of Q queries, M blocks of K keys.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.routed_attention.block_bounds import (
    BlockMap,
    block_map,
    pad_positions,
    pad_windows,
)
from pallas_kernels.routed_attention.block_sizes import Blocks

LANES = 128
# Rows of 16-bit numbers that share a register.
SUBLANES = 16


def fitted(blocks: Blocks, num_queries: int, num_keys: int) -> Blocks:
    """Cut T and S evenly into the fewest blocks of at most the given sizes.

    Without this, 563 kept tokens in blocks of 512 would be padded to 1,024, now to 576
    queries and 768 keys: queries are rows of scores and keys are lanes.

    Raises:
      NotImplementedError: a size is no positive multiple of 128.
    """
    for name, most in (("query", blocks.query), ("key", blocks.key)):
        if most <= 0 or most % LANES != 0:
            raise NotImplementedError(
                f"The {name} block is {most}, but a TPU works on {LANES} lanes; use a "
                f"multiple of {LANES}."
            )
    return blocks._replace(
        query=_even_cut(num_queries, blocks.query, SUBLANES),
        key=_even_cut(num_keys, blocks.key, LANES),
    )


def _even_cut(size: int, most: int, multiple: int) -> int:
    num_blocks = -(-size // most)
    return -(-size // (num_blocks * multiple)) * multiple


class Visibility(NamedTuple):
    """Windows int32 `[B, T]`, R queries per token, and key positions int32 `[B, S]`."""

    window_start: jax.Array
    window_end: jax.Array
    key_position: jax.Array

    @classmethod
    def shared(
        cls,
        num_sharing: int,
        window_start: jax.Array,
        window_end: jax.Array,
        key_position: jax.Array,
    ) -> "Visibility":
        """Give each of a token's R queries the window of the token."""
        return cls(
            jnp.repeat(window_start, num_sharing, axis=1),
            jnp.repeat(window_end, num_sharing, axis=1),
            key_position,
        )

    def pairs(self, blocks: Blocks) -> BlockMap:
        """Return the kinds of all pairs of blocks."""
        return block_map(*self, query_block=blocks.query, key_block=blocks.key)

    def by_block(self, blocks: Blocks) -> tuple[jax.Array, jax.Array]:
        """Return starts and lengths `[B, N, 2, Q]`, and key positions `[B, M, 1, K]`.

        Starts are at least 0, and an empty window has length 0.
        """
        start_BT = jnp.maximum(self.window_start, 0)
        length_BT = jnp.maximum(self.window_end, start_BT) - start_BT
        windows_B2T = jnp.stack(
            [pad_windows(x_BT, blocks.query) for x_BT in (start_BT, length_BT)], axis=1
        )
        position_B1S = pad_positions(self.key_position, blocks.key)[:, None]
        return numbers_by_block(windows_B2T, blocks.query), numbers_by_block(
            position_B1S, blocks.key
        )


def numbers_by_block(x: jax.Array, block: int) -> jax.Array:
    """Turn `[..., C, T]`, C numbers per token, into `[..., N, C, Q]`; N Q is T."""
    return x.reshape(*x.shape[:-1], -1, block).swapaxes(-3, -2)


def numbers_by_query(x: jax.Array, num_queries: int) -> jax.Array:
    """Undo `numbers_by_block`, and cut to T."""
    x = x.swapaxes(-3, -2)
    return x.reshape(*x.shape[:-2], -1)[..., :num_queries]


def queries_by_head(x_BTHE: jax.Array, num_kv_heads: int) -> jax.Array:
    """Turn `[B, tokens, H, E]` into `[B, G, T, E]`."""
    num_rows, num_tokens, num_heads, head_dim = x_BTHE.shape
    num_sharing = num_heads // num_kv_heads
    shape = (num_rows, num_tokens, num_kv_heads, num_sharing, head_dim)
    x_BGTRE = x_BTHE.reshape(shape).swapaxes(1, 2)
    return x_BGTRE.reshape(num_rows, num_kv_heads, -1, head_dim)


def queries_by_token(x_BGTE: jax.Array, like_BTHE: jax.Array) -> jax.Array:
    """Undo `queries_by_head` and padding."""
    num_rows, num_tokens, num_heads, head_dim = like_BTHE.shape
    num_kv_heads = x_BGTE.shape[1]
    num_sharing = num_heads // num_kv_heads
    shape = (num_rows, num_kv_heads, num_tokens, num_sharing, head_dim)
    x_BGTRE = x_BGTE[:, :, : num_tokens * num_sharing].reshape(shape)
    return x_BGTRE.swapaxes(1, 2).reshape(like_BTHE.shape)


def keys_by_head(x_BSGE: jax.Array) -> jax.Array:
    """Turn `[B, S, G, E]` into `[B, G, S, E]`."""
    return x_BSGE.swapaxes(1, 2)


def keys_by_token(x_BGSE: jax.Array, like_BSGE: jax.Array) -> jax.Array:
    """Undo `keys_by_head` and padding."""
    return x_BGSE[:, :, : like_BSGE.shape[1]].swapaxes(1, 2)


def pad_tokens(x: jax.Array, axis: int, block: int) -> jax.Array:
    """Pad an axis with zeros to whole blocks."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % block)
    return jnp.pad(x, padding)
