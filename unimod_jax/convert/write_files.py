"""Writing a checkpoint's files, one tensor in memory at a time."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.manifest import FileRecord, Manifest
from unimod_jax.convert.safetensors_format import (
    StoredTensor,
    header_bytes,
    parse_tensors,
)

type Values = Mapping[str, Callable[[], np.ndarray]]
"""Name of a tensor -> what makes its values, in the file's shape and any dtype."""

_PIECE_VALUES = 1 << 22


def write_files(manifest: Manifest, directory: Path | str, values: Values) -> None:
    """Writes the files of a manifest into a new directory.

    The directory appears when all is written, and not before.

    Args:
      manifest: of the files that were read, or from `new_manifest`.
      directory: must not exist yet.
      values: of every tensor of the manifest and of no other; each is called once, when
        its turn comes, and cast to the dtype of the file.

    Raises:
      ConversionError: for a tensor without values, values without a tensor or of
        another shape, or a directory that exists.
    """
    directory = Path(directory)
    if directory.exists():
        raise ConversionError(
            f"{directory} exists already; give a directory that does not, so that "
            "nothing is overwritten."
        )
    _check_names(manifest, values)
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for record in manifest.files:
            with (partial / record.name).open("wb") as file:
                _write_file(file, record, values)
        if manifest.index:
            name, text = manifest.index
            (partial / name).write_text(text, "utf-8", newline="")
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def tensors_of(manifest: Manifest) -> dict[str, StoredTensor]:
    """Name -> tensor, of all files of a manifest."""
    return {
        record.prefix + tensor.name: tensor
        for record in manifest.files
        for tensor in parse_tensors(Path(record.name), record.header)
    }


def _check_names(manifest: Manifest, values: Values) -> None:
    held = set(tensors_of(manifest))
    if missing := sorted(held - set(values)):
        raise ConversionError(
            f"nothing gives the values of {missing[0]} (and {len(missing) - 1} more); "
            "pass the published files as `rest` for tensors that are not of the model."
        )
    if extra := sorted(set(values) - held):
        raise ConversionError(
            f"{manifest.files[0].name} and its shards have no tensor {extra[0]}; "
            "export with the table that the files were read with."
        )


def _write_file(file: BinaryIO, record: FileRecord, values: Values) -> None:
    file.write(header_bytes(record.header))
    for tensor in parse_tensors(Path(record.name), record.header):
        array = values[record.prefix + tensor.name]()
        if array.shape != tensor.shape:
            raise ConversionError(
                f"{record.name} stores {tensor.name} of shape {tensor.shape}, but the "
                f"model's is {array.shape}; export the architecture that was read."
            )
        for piece in _pieces(array):
            stored = np.ascontiguousarray(piece.astype(tensor.dtype, copy=False))
            file.write(stored.reshape(-1).view(np.uint8))
        del array


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array in order, a few million values at a time."""
    if array.ndim == 0:
        yield array
        return
    rows = max(_PIECE_VALUES // max(array[:1].size, 1), 1)
    for first in range(0, array.shape[0], rows):
        yield array[first : first + rows]
