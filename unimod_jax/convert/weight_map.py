"""Which tensor of a published file is which parameter, as data.

A converter is a table: the path of a parameter, the name and shape of its tensor in the
file, and a rearrangement that can be undone. Reading, writing, and every complaint
about a missing, extra or mis-shaped tensor follow from the table alone.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

type Rearranging = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rearrangement:
    """A permutation of a tensor's values, and its inverse; no value changes.

    Attributes:
      to_ours: from the file's order to the parameter's; a view where it can be.
      to_theirs: the inverse.
    """

    to_ours: Rearranging
    to_theirs: Rearranging


def axes_moved(*axes: int) -> Rearrangement:
    """The transpose that makes axis `axes[i]` of the file's tensor our axis i."""
    inverse = tuple(int(axis) for axis in np.argsort(axes))
    return Rearrangement(
        lambda tensor: tensor.transpose(axes), lambda tensor: tensor.transpose(inverse)
    )


AS_IS = Rearrangement(lambda tensor: tensor, lambda tensor: tensor)
TRANSPOSED = axes_moved(1, 0)
"""PyTorch's linear layers are [out, in], ours [in, out]."""
KERNEL_1D = axes_moved(2, 1, 0)
"""PyTorch's convolutions are [out, in, space...], ours [space..., in, out]."""
KERNEL_2D = axes_moved(2, 3, 1, 0)
KERNEL_3D = axes_moved(2, 3, 4, 1, 0)


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """A tensor of a published file.

    Attributes:
      name: its name in the file.
      shape: its shape in the file.
      rearrangement: how it becomes a parameter.
    """

    name: str
    shape: tuple[int, ...]
    rearrangement: Rearrangement = AS_IS


type WeightMap = Mapping[tuple[str, ...], FileTensor]
"""Path of a parameter -> its tensor; each tensor of the file stands in it once."""
