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
      axes: if it moves axes and nothing else, the file's axis of each of ours, so that
        parts of a tensor can be read on their own; () leaves all axes in place.
    """

    to_ours: Rearranging
    to_theirs: Rearranging
    axes: tuple[int, ...] | None = None


def axes_moved(*axes: int) -> Rearrangement:
    """The transpose that makes axis `axes[i]` of the file's tensor our axis i."""
    inverse = tuple(int(axis) for axis in np.argsort(axes))
    return Rearrangement(
        lambda tensor: tensor.transpose(axes),
        lambda tensor: tensor.transpose(inverse),
        axes,
    )


AS_IS = Rearrangement(lambda tensor: tensor, lambda tensor: tensor, ())
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

    @property
    def tensors(self) -> "tuple[FileTensor, ...]":
        """The tensors of files that it is made of: itself."""
        return (self,)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        axes = self.rearrangement.axes
        if axes is None:
            nothing = np.broadcast_to(np.zeros((), np.bool_), self.shape)
            return self.rearrangement.to_ours(nothing).shape
        return tuple(self.shape[axis] for axis in axes) if axes else self.shape


@dataclasses.dataclass(frozen=True)
class JoinedTensors:
    """A parameter of which several devices saved a part each, in files of their own.

    Attributes:
      tensors: the parts.
      axis: of the parameter, along which they are joined; None where each device saved
        the whole, of which the mean is taken (as transformers' own converter does),
        and written back to all.
    """

    tensors: tuple[FileTensor, ...]
    axis: int | None

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        shape = list(self.tensors[0].parameter_shape)
        if self.axis is not None:
            lengths = (part.parameter_shape[self.axis] for part in self.tensors)
            shape[self.axis] = sum(lengths)
        return tuple(shape)


type WeightMap = Mapping[tuple[str, ...], FileTensor]
"""Path of a parameter -> its tensor; each tensor of the file stands in it once."""

type Table = Mapping[tuple[str, ...], FileTensor | JoinedTensors]
"""A WeightMap in which some parameters are joined from parts."""
