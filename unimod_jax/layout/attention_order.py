"""In which order attention reads a row: as it is stored, or as a sequence.

What a token sees is decided by positions, so any order gives the same result; it
decides how many blocks a kernel visits. Storage order puts documents that are packed in
a row beside each other in each stream: a block of text then holds captions of several
documents, and meets the images of all of them. Where that costs much more than sequence
order, attention permutes its tokens there and back (see `sequence_order`). Layouts are
static, so the choice is too: it is read off one nominal row.
"""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import numpy as np

BLOCK = 128
"""Queries and keys of a block, as most entries of the kernels' tables have it."""

FEWEST_BLOCKS = 8
"""Shorter rows (1,024 tokens) stay as stored: there are few blocks to save."""

# The gathers take the place of joining the streams and cutting them apart. Compiled for
# an H200, the joins of q, k and v are fused into them, and the output alone moves once
# more: 4 E H bytes a token in bfloat16. A key costs a query 4 E H operations, so at an
# estimated 500 TFLOP/s and 4 TB/s moving costs what 125 keys cost. Rows of short
# documents visit two to three blocks of 128 keys for each block of queries, so a
# quarter more of them, 60 to 100 keys, is about where it begins to pay. Compiled for a
# TPU v5e all four arrays move once more, which is some 500 keys, so there it pays in
# rows that save more than this. None of it is measured.
WORTH_PERMUTING = 1.25
"""Permute where storage order visits at least this many times the blocks."""


@dataclasses.dataclass(frozen=True)
class AttentionOrder:
    """The order in which attention reads the rows of a layout, and why.

    Attributes:
      storage_blocks: pairs of blocks (128 queries, 128 keys) that a nominal row visits
        as it is stored, its streams joined by `join_order`.
      sequence_blocks: pairs it visits in sequence order.
      row_blocks: blocks of the row.
    """

    storage_blocks: int
    sequence_blocks: int
    row_blocks: int

    @property
    def name(self) -> Literal["storage", "sequence"]:
        """The order: "sequence" where storage order visits far more blocks."""
        is_long = self.row_blocks >= FEWEST_BLOCKS
        costly = self.storage_blocks >= WORTH_PERMUTING * self.sequence_blocks
        return "sequence" if is_long and costly else "storage"

    def __str__(self) -> str:
        """One line for logs."""
        return (
            f"attention in {self.name} order ({self.storage_blocks} blocks of {BLOCK} "
            f"as stored, {self.sequence_blocks} in sequence)"
        )


def join_order(streams: Iterable[str]) -> tuple[str, ...]:
    """The order in which attention joins streams: by name.

    It is also the order that jit gives dictionaries. Images come first, so that spans
    of whole blocks stay on block boundaries: for sixteen packed captions with
    bidirectional images of 256 tokens, text first visits twice as many blocks.
    """
    return tuple(sorted(streams))


def attention_order(
    stream_T: np.ndarray, window_start_T: np.ndarray, window_end_T: np.ndarray
) -> AttentionOrder:
    """Counts the blocks of one full row in both orders.

    Args:
      stream_T: integer, which stream of `join_order` stores each token; the tokens are
        in sequence order and token t has position t.
      window_start_T: int32, first position each token sees.
      window_end_T: int32, end (exclusive) of the positions it sees.
    """
    position_T = np.arange(len(stream_T))
    stored_T = np.argsort(stream_T, kind="stable")
    return AttentionOrder(
        visited_blocks(
            window_start_T[stored_T], window_end_T[stored_T], position_T[stored_T]
        ),
        visited_blocks(window_start_T, window_end_T, position_T),
        -(-len(stream_T) // BLOCK),
    )


def visited_blocks(
    window_start_T: np.ndarray, window_end_T: np.ndarray, key_position_S: np.ndarray
) -> int:
    """Pairs of blocks whose bounds let some query see some key.

    What `pallas_kernels.routed_attention.block_bounds.block_map` calls visible, for a
    row without empty slots, in NumPy, so that it may be asked while jax traces.
    """
    query_N = np.arange(0, len(window_start_T), BLOCK)
    key_M = np.arange(0, len(key_position_S), BLOCK)
    first_N1 = np.minimum.reduceat(window_start_T, query_N)[:, None]
    end_N1 = np.maximum.reduceat(window_end_T, query_N)[:, None]
    lowest_M = np.minimum.reduceat(key_position_S, key_M)
    highest_M = np.maximum.reduceat(key_position_S, key_M)
    return int(np.sum((first_N1 <= highest_M) & (lowest_M < end_N1)))
