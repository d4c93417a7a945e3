"""Weights of released models, from their published files and back, unchanged."""

from unimod_jax.convert.weight_map import (
    AS_IS,
    KERNEL_1D,
    KERNEL_2D,
    KERNEL_3D,
    TRANSPOSED,
    FileTensor,
    Rearrangement,
    WeightMap,
    axes_moved,
)

__all__ = [
    "FileTensor",
    "WeightMap",
    "Rearrangement",
    "AS_IS",
    "TRANSPOSED",
    "KERNEL_1D",
    "KERNEL_2D",
    "KERNEL_3D",
    "axes_moved",
]
