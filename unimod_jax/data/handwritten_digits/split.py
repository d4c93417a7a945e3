"""A fixed train / test split: stratified by class, and the same on every machine."""

import hashlib
from collections.abc import Sequence

SEED = 0
TEST_SCANS = 360
"""Of 1,797 scans: a fifth."""


def held_out_scans(
    labels: Sequence[int], num_test: int = TEST_SCANS, seed: int = SEED
) -> frozenset[int]:
    """Indices of the test scans: the same share of every class, `num_test` in all.

    Each class is put in a random but fixed order (by hash, whose values, unlike those
    of a random generator, never change between library versions); the scans that come
    first relative to the size of their class are the test scans.
    """
    by_class: dict[int, list[int]] = {}
    for scan, label in enumerate(labels):
        by_class.setdefault(label, []).append(scan)
    rank: dict[int, float] = {}
    for scans in by_class.values():
        scans.sort(key=lambda scan: hashlib.sha256(f"{seed}/{scan}".encode()).digest())
        for place, scan in enumerate(scans):
            rank[scan] = (place + 0.5) / len(scans)
    return frozenset(sorted(rank, key=lambda scan: (rank[scan], scan))[:num_test])
