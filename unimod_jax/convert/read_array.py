"""One parameter, filled where it stays.

Every device's part is filled from a few megabytes of the file at a time, and no tensor
is ever whole in between.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from unimod_jax.convert.tensor_files import TensorFiles
from unimod_jax.convert.weight_map import FileTensor, JoinedTensors

_ALIGNMENT = 64
"""Bytes. JAX on CPU takes over arrays that start at such an address, uncopied."""


def read_array(
    files: TensorFiles,
    entries: Sequence[FileTensor | JoinedTensors],
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike,
    place: Sharding,
    fresh: jax.Array | None = None,
) -> jax.Array:
    """Reads one parameter.

    Args:
      files: opened.
      entries: what it is made of: one, or its layers where the shape has an axis of
        them.
      shape: of the parameter; where the files hold fewer rows, the first are theirs.
      dtype: of the parameter.
      place: where it goes.
      fresh: the whole parameter as initialised, in the same place, if the files hold
        only a part.
    """
    stacked = len(shape) > len(entries[0].parameter_shape)
    shards = fresh.addressable_shards if fresh is not None else ()
    begun = {shard.index: shard.data for shard in shards}

    def part(of_device: Any) -> np.ndarray:
        index = tuple(
            slice(*each.indices(n)) for each, n in zip(of_device, shape, strict=True)
        )
        out = _aligned([each.stop - each.start for each in index], np.dtype(dtype))
        if begun:
            out[...] = begun[of_device]
        if not stacked:
            _fill_held(out, files, entries[0], index)
            return out
        for layer, entry in enumerate(entries[index[0]]):
            _fill_held(out[layer], files, entry, index[1:])
        return out

    made = jax.make_array_from_callback(shape, place, part)
    return made.block_until_ready()


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array that JAX on CPU need not copy."""
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def _fill_held(
    out: np.ndarray,
    files: TensorFiles,
    entry: FileTensor | JoinedTensors,
    index: tuple[slice, ...],
) -> None:
    """Fills as much of an array as the files hold of that part of the parameter."""
    lengths = entry.parameter_shape
    held = tuple(
        slice(each.start, min(each.stop, length))
        for each, length in zip(index, lengths, strict=True)
    )
    counts = [each.stop - each.start for each in held]
    if min(counts, default=1) > 0:
        _fill(out[..., *map(slice, counts)], files, entry, held)


def _fill(
    out: np.ndarray,
    files: TensorFiles,
    entry: FileTensor | JoinedTensors,
    index: tuple[slice, ...],
) -> None:
    """Fills an array with a part of a parameter."""
    if isinstance(entry, JoinedTensors):
        _fill_joined(out, files, entry, index)
        return
    axes = entry.rearrangement.axes
    if axes is None:
        out[...] = entry.rearrangement.to_ours(files.read(entry.name))[index]
        return
    axes = axes or tuple(range(len(index)))
    if not axes:
        out[...] = files.read(entry.name)
        return
    of_file = [slice(None)] * len(axes)
    for ours, theirs in enumerate(axes):
        of_file[theirs] = index[ours]
    # Rows of the file are one of our axes, of which a few are filled at a time.
    ours, rows = axes.index(0), of_file[0]
    for start, stop in files.pieces(entry.name, rows.start, rows.stop):
        piece = files.read(entry.name, start, stop)[:, *of_file[1:]].transpose(axes)
        filled = slice(start - rows.start, stop - rows.start)
        out[(slice(None),) * ours + (filled,)] = piece


def _fill_joined(
    out: np.ndarray, files: TensorFiles, entry: JoinedTensors, index: tuple[slice, ...]
) -> None:
    if (axis := entry.axis) is None:
        copies = np.stack([files.read(part.name) for part in entry.tensors])
        out[...] = copies.astype(np.float64).mean(axis=0)[index]
        return
    first, wanted = 0, index[axis]
    for part in entry.tensors:
        length = part.parameter_shape[axis]
        start = max(wanted.start, first)
        stop = min(wanted.stop, first + length)
        if start < stop:
            before = (slice(None),) * axis
            of_part = (*index[:axis], slice(start - first, stop - first))
            _fill(
                out[*before, start - wanted.start : stop - wanted.start],
                files,
                part,
                (*of_part, *index[axis + 1 :]),
            )
        first += length
