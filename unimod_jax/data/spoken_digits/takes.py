"""The units of every take, read from the file that `synthesise` wrote.

`spoken_digits.npz` holds, for U utterances (train before test, then by digit and take):

    units    int8 [U, LONGEST]           0..NUM_UNITS - 1, then -1 as padding
    lengths  int8 [U]                    units of each utterance
    digits   int8 [U]                    what is said
    voices   int8 [U]                    who says it
    centres  float32 [NUM_UNITS, bands]  log-mel spectrum of each unit
"""

import functools
import hashlib
import types
from pathlib import Path

import numpy as np

from unimod_jax.data.record_schema import DataError

FILE = Path(__file__).with_name("spoken_digits.npz")

NUM_UNITS = 32
"""Kinds of units; Mixture-of-Transformers has 500 for all sounds of all speakers."""

LONGEST = 12
"""Units of the longest utterance."""

VOICES = types.MappingProxyType({"train": range(24), "test": range(24, 32)})
"""Numbers of the voices of each split: the test voices are never heard in training."""

TAKES = types.MappingProxyType({"train": 96, "test": 32})
"""Takes of each digit, by split: every voice says every digit four times."""


def spoken_units(digit: int, take: int, split: str) -> tuple[int, ...]:
    """The units of an utterance of a digit, each 0..NUM_UNITS - 1, no repeats.

    Args:
      digit: 0..9, what is said.
      take: 0..TAKES[split] - 1.
      split: "train" or "test"; they have different voices.

    Returns:
      At most LONGEST units.

    Raises:
      DataError: if there is no such digit, take or split.
    """
    if split not in TAKES:
        raise DataError(
            f"spoken digits have no split {split!r}, only {sorted(TAKES)}; choose one."
        )
    if not (0 <= digit < 10 and 0 <= take < TAKES[split]):
        raise DataError(
            f"there is no take {take} of digit {digit} in split {split!r}; digits are "
            f"0..9 and takes 0..{TAKES[split] - 1}."
        )
    before = 10 * TAKES["train"] if split == "test" else 0
    return _all_units()[before + digit * TAKES[split] + take]


def take_of_scan(scan: int, split: str) -> int:
    """Which take goes with a scan: the same one on every machine.

    Args:
      scan: the index of a handwritten digit in its source.
      split: of that scan, "train" or "test".
    """
    digest = hashlib.sha256(f"{scan}/speech".encode()).digest()
    return int.from_bytes(digest[:8]) % TAKES[split]


@functools.cache
def _all_units() -> tuple[tuple[int, ...], ...]:
    with np.load(FILE, allow_pickle=False) as file:
        units, lengths = file["units"], file["lengths"]
    return tuple(
        tuple(row[:length].tolist()) for row, length in zip(units, lengths, strict=True)
    )
