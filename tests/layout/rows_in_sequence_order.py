"""Reads laid-out rows back in sequence order, whatever streams they are stored in."""

import numpy as np

from unimod_jax.layout import TokenGroup, visible_matrix


def matrix(*rows: str) -> np.ndarray:
    """A boolean matrix from rows of 0 and 1; spaces are for the eye."""
    return np.array([[cell == "1" for cell in row.replace(" ", "")] for row in rows])


def column(row: TokenGroup, field: str) -> np.ndarray:
    """One field of a single row over all its slots, stream after stream."""
    return np.concatenate([getattr(stream, field) for stream in row.streams.values()])


def stored_visibility(row: TokenGroup) -> np.ndarray:
    """Which slot sees which, in the order the row is stored."""
    return visible_matrix(
        column(row, "window_start_BT"),
        column(row, "window_end_BT"),
        column(row, "position_BT"),
    )


def held_slots(row: TokenGroup) -> np.ndarray:
    """The slots that hold tokens, ordered by position."""
    position = column(row, "position_BT")
    order = np.argsort(position, kind="stable")
    return order[position[order] >= 0]


def visibility(row: TokenGroup) -> np.ndarray:
    """Which token sees which, in sequence order, empty slots left out."""
    held = held_slots(row)
    return stored_visibility(row)[np.ix_(held, held)]


def in_order(row: TokenGroup, field: str) -> np.ndarray:
    """One field of the row's tokens in sequence order."""
    return column(row, field)[held_slots(row)]
