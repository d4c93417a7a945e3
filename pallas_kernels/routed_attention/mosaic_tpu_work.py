"""The pairs of blocks that a TPU kernel visits: one list of words in scalar memory.

A TPU core walks its grid in order and copies the blocks of the next step while it
computes this one, so every step must be known in advance. Here a step is a word of the
list, which names one pair of blocks; pairs that are not listed cost neither a step nor
a copy, and the grid is as long as the list.

Legend, beside that of `block_bounds.py`: O outer blocks (one accumulator each) meet I
inner blocks; W words.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from pallas_kernels.routed_attention.block_bounds import BlockMap
from pallas_kernels.routed_attention.block_sizes import Blocks

# The lowest bits of a word: the pair opens or closes the visit of its outer block, and
# its kind. A pair of neither kind only writes the result of an outer block that nothing
# concerns.
FIRST, LAST, WHOLE, PARTIAL = 1, 2, 4, 8
_FLAG_BITS = 4

# Half of the scalar memory of every chip since TPU v4, which is 1 MiB per core.
MOST_WORDS = 2**17

_END_OF_LIST = jnp.iinfo(jnp.int32).max


class WorkFields(NamedTuple):
    """How the bits above the flags are shared: batch row, outer block, inner block."""

    outer_bits: int
    inner_bits: int

    def pack(self, row, outer, inner, flags) -> jax.Array:
        """Make words whose order is that of (row, outer, inner)."""
        word = (row << self.outer_bits | outer) << self.inner_bits | inner
        return word << _FLAG_BITS | flags

    def row(self, word) -> jax.Array:
        """Return the batch row of a word."""
        return word >> (_FLAG_BITS + self.inner_bits + self.outer_bits)

    def outer(self, word) -> jax.Array:
        """Return the outer block of a word."""
        return word >> (_FLAG_BITS + self.inner_bits) & (1 << self.outer_bits) - 1

    def inner(self, word) -> jax.Array:
        """Return the inner block of a word."""
        return word >> _FLAG_BITS & (1 << self.inner_bits) - 1


class WorkList(NamedTuple):
    """Words int32 `[W]`, of which the first `length` (int32 scalar) are to be done."""

    words: jax.Array
    length: jax.Array
    fields: WorkFields


def refuse_long_lists(
    num_rows: int, num_queries: int, num_keys: int, blocks: Blocks
) -> None:
    """Check that the words of every pair of blocks fit into scalar memory.

    Raises:
      NotImplementedError: they do not.
    """
    query_blocks, key_blocks = (
        -(-num_queries // blocks.query),
        -(-num_keys // blocks.key),
    )
    num_words = num_rows * query_blocks * key_blocks
    if num_words > MOST_WORDS:
        raise NotImplementedError(
            f"{num_rows} rows of {query_blocks} x {key_blocks} blocks may take "
            f"{num_words} steps, but scalar memory holds {MOST_WORDS}; use larger "
            "blocks or fewer rows per device."
        )


def work_list(pairs: BlockMap) -> WorkList:
    """List the visible pairs of a map, outer block by outer block.

    Pass `block_map(...)` where queries are the outer blocks, and its `transposed()`
    where keys are. An outer block that meets nothing gets one pair of neither kind.
    """
    visible_BOI, whole_BOI = pairs
    num_outer, num_inner = visible_BOI.shape[1:]
    fields = WorkFields((num_outer - 1).bit_length(), (num_inner - 1).bit_length())
    row, outer, inner = (
        jax.lax.broadcasted_iota(jnp.int32, visible_BOI.shape, axis)
        for axis in range(3)
    )
    meets_nothing_BO1 = ~jnp.any(visible_BOI, axis=-1, keepdims=True)
    listed_BOI = visible_BOI | (meets_nothing_BO1 & (inner == 0))
    first = jnp.where(listed_BOI, inner, num_inner).min(axis=-1, keepdims=True)
    last = jnp.where(listed_BOI, inner, -1).max(axis=-1, keepdims=True)
    flags = jnp.where(inner == first, FIRST, 0) | jnp.where(inner == last, LAST, 0)
    flags |= jnp.where(whole_BOI, WHOLE, jnp.where(visible_BOI, PARTIAL, 0))
    words_BOI = fields.pack(row, outer, inner, flags)
    # Words are in order already, so sorting the others behind them closes the gaps.
    words_W = jnp.sort(jnp.where(listed_BOI, words_BOI, _END_OF_LIST).reshape(-1))
    return WorkList(words_W, jnp.sum(listed_BOI, dtype=jnp.int32), fields)


class PairSpecs(NamedTuple):
    """Which block of each kind of operand a word names; the grid is (head, word)."""

    windows: pl.BlockSpec  # [B, N, 2, Q] -> [2, Q]
    position: pl.BlockSpec  # [B, M, 1, K] -> [1, K]
    queries: pl.BlockSpec  # [B, G, T, E] -> [Q, E]
    keys: pl.BlockSpec  # [B, G, S, E] -> [K, E]
    log_sum_exp: pl.BlockSpec  # [B, G, N, 1, Q] -> [1, Q]
    statistics: pl.BlockSpec  # [B, G, N, 2, Q] -> [2, Q]


def pair_specs(
    fields: WorkFields, blocks: Blocks, head_dim: int, *, queries_are_outer: bool
) -> PairSpecs:
    """Return the block specs of a kernel, whose outer blocks are queries or keys."""
    query, key = fields.outer, fields.inner
    if not queries_are_outer:
        query, key = key, query

    def tokens(block: int, of: Callable) -> pl.BlockSpec:
        def index(head, step, words):
            return fields.row(words[step]), head, of(words[step]), 0

        return pl.BlockSpec((None, None, block, head_dim), index)

    def numbers(count: int, block: int, of: Callable) -> pl.BlockSpec:
        def index(head, step, words):
            return fields.row(words[step]), of(words[step]), 0, 0

        return pl.BlockSpec((None, None, count, block), index)

    def numbers_per_head(count: int) -> pl.BlockSpec:
        def index(head, step, words):
            return fields.row(words[step]), head, query(words[step]), 0, 0

        return pl.BlockSpec((None, None, None, count, blocks.query), index)

    return PairSpecs(
        windows=numbers(2, blocks.query, query),
        position=numbers(1, blocks.key, key),
        queries=tokens(blocks.query, query),
        keys=tokens(blocks.key, key),
        log_sum_exp=numbers_per_head(1),
        statistics=numbers_per_head(2),
    )
