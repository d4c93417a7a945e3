"""Visibility is a window in position space: three integers instead of a T x S mask.

A query sees a key iff `window_start <= key_position < window_end`. Causal text is
`[document start, position + 1)`; a token of a bidirectional span, such as an image, is
`[document start, span end)`; a row with a visible prefix (Show-o understanding) raises
every end to the prefix's end. The same three vectors stay true when tokens are dropped
by a router, regrouped by modality, packed with other documents or read from a cache.
"""

import numpy as np


def document_windows(
    position_T: np.ndarray,
    span_end_T: np.ndarray,
    *,
    document_start: int = 0,
    prefix_end: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of one document's tokens, on the host.

    Args:
      position_T: int32 sequence positions; -1 marks an empty slot.
      span_end_T: int32 end (exclusive) of the bidirectional span a token is in; 0 for a
        causal token.
      document_start: position of the document's first token.
      prefix_end: end (exclusive) of the prefix every token sees; 0 for none.

    Returns:
      (window_start_T, window_end_T), int32; empty slots get the empty window [0, 0).
    """
    end_T = np.maximum(np.maximum(position_T + 1, span_end_T), prefix_end)
    start_T = np.full_like(position_T, document_start)
    held_T = position_T >= 0
    return (
        np.where(held_T, start_T, 0).astype(np.int32),
        np.where(held_T, end_T, 0).astype(np.int32),
    )


def visible_matrix(
    window_start_T: np.ndarray, window_end_T: np.ndarray, key_position_S: np.ndarray
) -> np.ndarray:
    """The T x S boolean matrix that windows stand for, for tests and pictures only."""
    key_1S = key_position_S[None, :]
    return (
        (key_1S >= 0)
        & (window_start_T[:, None] <= key_1S)
        & (key_1S < window_end_T[:, None])
    )
