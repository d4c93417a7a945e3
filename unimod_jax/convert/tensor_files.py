"""The tensors of a published checkpoint: one file, or a directory of shards.

Opening reads headers only. Values are read by rows, straight from the file into an
array of their own: no map of the file, nothing kept.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.manifest import FileRecord, Manifest
from unimod_jax.convert.safetensors_format import (
    PICKLE_SUFFIXES,
    StoredTensor,
    data_start,
    parse_header,
    read_header,
)

INDEX_SUFFIX = ".safetensors.index.json"
_PARALLEL = "consolidated"
"""Shards of devices that cut each tensor: consolidated.00, consolidated.01, ..."""
_PIECE_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class _Place:
    file: Path
    data_start: int
    tensor: StoredTensor


@dataclasses.dataclass(frozen=True)
class TensorFiles:
    """Open files: names, shapes, dtypes, and a way to read rows.

    Attributes:
      path: what was opened.
      manifest: how the tensors lie in files, so that the same files can be written.
    """

    path: Path
    manifest: Manifest
    _places: Mapping[str, _Place] = dataclasses.field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors, in the order in which they are stored."""
        return tuple(self._places)

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape."""
        return self._places[name].tensor.shape

    def dtype(self, name: str) -> np.dtype:
        """Its dtype; bfloat16 is that of ml_dtypes."""
        return self._places[name].tensor.dtype

    def num_bytes(self, name: str) -> int:
        """Bytes of its values."""
        return self._places[name].tensor.num_bytes

    def file_of(self, name: str) -> Path:
        """The file that holds it."""
        return self._places[name].file

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of a tensor (entries of its first axis), as stored; a fresh array.

        Args:
          name: the tensor.
          start, stop: of the rows; all unless given. A scalar has one row.
        """
        place = self._places[name]
        shape = place.tensor.shape or (1,)
        stop = shape[0] if stop is None else stop
        rows = np.empty((stop - start, *shape[1:]), place.tensor.dtype)
        row_bytes = place.tensor.num_bytes // max(shape[0], 1)
        with place.file.open("rb", buffering=0) as file:
            file.seek(place.data_start + place.tensor.start + start * row_bytes)
            view = memoryview(rows.reshape(-1).view(np.uint8))
            while view.nbytes and (count := file.readinto(view)):
                view = view[count:]
        if view.nbytes:
            raise ConversionError(
                f"{place.file} ended while {name} was read, so it changed after it was "
                "opened; leave it in place until the conversion is done."
            )
        return rows if place.tensor.shape else rows.reshape(())

    def pieces(self, name: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cuts rows of a tensor into ranges of a few megabytes each."""
        shape = self.shape(name) or (1,)
        row_bytes = max(self.num_bytes(name) // max(shape[0], 1), 1)
        step = max(_PIECE_BYTES // row_bytes, 1)
        for first in range(start, stop, step):
            yield first, min(first + step, stop)


def open_tensor_files(path: Path | str) -> TensorFiles:
    """Opens a safetensors file, an index of shards, or a directory that holds either.

    A directory of `consolidated.00.safetensors`, `consolidated.01.safetensors`, ... is
    the original layout of Chameleon, in which each device saved its part of every
    tensor: there, tensors are called "00/output.weight", "01/output.weight", ...

    Raises:
      ConversionError: one sentence, for files that are missing, damaged or pickles.
    """
    path = Path(path)
    if not path.exists():
        raise ConversionError(
            f"{path} does not exist; give a .safetensors file, its index, or the "
            "directory of a downloaded model."
        )
    if path.name.startswith(f"{_PARALLEL}.") and path.suffix == ".safetensors":
        path = path.parent
    if path.is_dir():
        return _open_directory(path)
    if path.name.endswith(".json"):
        return _open_index(path)
    return _joined(path, [(path, "")], None)


def _open_directory(directory: Path) -> TensorFiles:
    indices = sorted(directory.glob(f"*{INDEX_SUFFIX}"))
    files = sorted(directory.glob("*.safetensors"))
    if len(indices) == 1:
        return dataclasses.replace(_open_index(indices[0]), path=directory)
    if files and all(file.name.startswith(f"{_PARALLEL}.") for file in files):
        return _joined(
            directory, [(file, f"{n:02}/") for n, file in enumerate(files)], None
        )
    if len(files) == 1:
        return _joined(directory, [(files[0], "")], None)
    if files:
        raise ConversionError(
            f"{directory} holds {len(files)} safetensors files and {len(indices)} "
            "indices, so it is not clear which belong together; give the file or the "
            "index itself."
        )
    pickles = [f for f in sorted(directory.iterdir()) if f.suffix in PICKLE_SUFFIXES]
    if pickles:
        read_header(pickles[0])
    raise ConversionError(
        f"{directory} holds no .safetensors file; give the directory of a downloaded "
        "model."
    )


def _open_index(index: Path) -> TensorFiles:
    text = index.read_text("utf-8")
    try:
        shard_of: Any = json.loads(text)["weight_map"]
        shards = sorted(set(shard_of.values()))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(
            f"{index} has no weight_map from tensors to files, so it is no index of "
            "shards; download it again."
        ) from error
    for shard in shards:
        if not (index.parent / shard).is_file():
            raise ConversionError(
                f"{index.parent / shard} is missing, though {index.name} names it; "
                "download all shards."
            )
    files = [(index.parent / shard, "") for shard in shards]
    opened = _joined(index, files, (index.name, text))
    for name, shard in shard_of.items():
        if name not in opened or opened.file_of(name).name != shard:
            raise ConversionError(
                f"{index.parent / shard} has no tensor {name}, though {index.name} "
                "says so; download both again."
            )
    return opened


def _joined(
    path: Path, files: list[tuple[Path, str]], index: tuple[str, str] | None
) -> TensorFiles:
    """All files as one, the names of each behind its prefix."""
    places: dict[str, _Place] = {}
    records = []
    for file, prefix in files:
        header = read_header(file)
        records.append(FileRecord(file.name, header, prefix))
        for tensor in parse_header(file, header):
            name = prefix + tensor.name
            if name in places:
                raise ConversionError(
                    f"{file} and {places[name].file} both hold {name}; keep only the "
                    "shards of one model in a directory."
                )
            places[name] = _Place(file, data_start(header), tensor)
    return TensorFiles(path, Manifest(tuple(records), index), places)
