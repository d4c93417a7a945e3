"""The safetensors file format: a length, a JSON header, and bytes without gaps.

    8 bytes   length N of the header, little-endian
    N bytes   {"name": {"dtype": "BF16", "shape": [...], "data_offsets": [a, b]}, ...,
               "__metadata__": {string: string}}, padded with spaces
    the rest  the tensors, row-major, little-endian; offsets count from here

It is read here and not with its library because that maps whole files into memory and
writes them from whole tensors in memory: what converts 14 GB on a small machine needs
rows of one tensor at a time.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from unimod_jax.convert.conversion_error import ConversionError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""The format's name of a dtype -> NumPy's."""

_LARGEST_HEADER = 100_000_000  # the limit of the format's own library
_ALIGNMENT = 8
_METADATA = "__metadata__"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
      name: its name in the header.
      dtype: of its values.
      shape: its shape.
      start: its first byte, counted from the header's end.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> str:
    """The JSON text of a file's header, padding and all.

    Raises:
      ConversionError: for a file that has none: one sentence that says what it may be.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_ALIGNMENT)
        _refuse_other_formats(path, start)
        length = struct.unpack("<Q", start)[0] if len(start) == _ALIGNMENT else size
        if length > min(size - _ALIGNMENT, _LARGEST_HEADER):
            raise ConversionError(
                f"{path} holds {size} bytes, too few for the header that it announces "
                f"({length} bytes), so it is truncated or no safetensors file; "
                "download it again."
            )
        header = file.read(length)
    try:
        return header.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _corrupt(path, "is no text") from error


def _refuse_other_formats(path: Path, start: bytes) -> None:
    if path.suffix in PICKLE_SUFFIXES or start.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise ConversionError(
            f"{path} is a pickle, which can run code when it is opened, so it was not "
            "read; get the safetensors files of the model, or save its tensors with "
            "safetensors.torch.save_file where you trust the file."
        )
    if start.startswith(b"version "):
        raise ConversionError(
            f"{path} is a Git LFS pointer and not the file itself; run `git lfs pull`."
        )


PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""What PyTorch's own files are called."""


def parse_header(path: Path, header: str) -> tuple[StoredTensor, ...]:
    """`parse_tensors` of a file that is there, and holds as many bytes as that takes.

    Raises:
      ConversionError: for a header that does not describe the bytes of its file.
    """
    tensors = parse_tensors(path, header)
    expected = data_start(header) + sum(tensor.num_bytes for tensor in tensors)
    size = path.stat().st_size
    if size != expected:
        raise ConversionError(
            f"{path} holds {size} bytes but its header describes {expected}, so it is "
            f"{'truncated' if size < expected else 'corrupt'}; download it again."
        )
    return tensors


def parse_tensors(path: Path, header: str) -> tuple[StoredTensor, ...]:
    """The tensors of a header, in the order of their bytes.

    Args:
      path: of the file, for messages.
      header: from `read_header`.

    Raises:
      ConversionError: for a header that describes no tensors side by side.
    """
    try:
        entries = json.loads(header, object_pairs_hook=_without_repeats)
    except (json.JSONDecodeError, RecursionError, KeyError) as error:
        raise _corrupt(path, "is no JSON object of distinct names") from error
    if not isinstance(entries, dict):
        raise _corrupt(path, "is no JSON object")
    tensors = [
        _tensor(path, name, entry)
        for name, entry in entries.items()
        if name != _METADATA
    ]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.num_bytes))
    _check_no_gaps(path, tensors)
    return tuple(tensors)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise KeyError("a name stands twice")
    return entries


def _tensor(path: Path, name: str, entry: Any) -> StoredTensor:
    match entry:
        case {
            "dtype": str(dtype),
            "shape": [*shape],
            "data_offsets": [int(start), int(end)],
        } if all(isinstance(size, int) and size >= 0 for size in shape):
            pass
        case _:
            raise _corrupt(path, f"describes {name!r} as {str(entry)[:100]}")
    if dtype not in DTYPES:
        raise ConversionError(
            f"{path} stores {name} as {dtype}, which cannot be read here; save it as "
            f"one of {', '.join(DTYPES)}."
        )
    tensor = StoredTensor(name, DTYPES[dtype], tuple(shape), start)
    if end - start != tensor.num_bytes:
        raise _corrupt(
            path,
            f"gives {name} {end - start} bytes, but {dtype} of shape "
            f"{tensor.shape} takes {tensor.num_bytes}",
        )
    return tensor


def _check_no_gaps(path: Path, tensors: list[StoredTensor]) -> None:
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            raise _corrupt(
                path, f"lets {tensor.name} start at byte {tensor.start} and not {end}"
            )
        end += tensor.num_bytes


def _corrupt(path: Path, what: str) -> ConversionError:
    return ConversionError(
        f"the header of {path} {what}, so the file is corrupt; download it again."
    )


def data_start(header: str) -> int:
    """The byte of a file at which its tensors start."""
    return _ALIGNMENT + len(header.encode("utf-8"))


def header_bytes(header: str) -> bytes:
    """What a file starts with: the header's length and the header."""
    text = header.encode("utf-8")
    return struct.pack("<Q", len(text)) + text


def make_header(
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    metadata: Mapping[str, str],
) -> str:
    """The header that the format's own library writes for these tensors.

    It stores them by the size of their dtype, largest first, then by name.

    Args:
      tensors: name -> (shape, dtype).
      metadata: PyTorch's writers put {"format": "pt"}.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name)):
        shape, dtype = tensors[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": names[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False)
    return text + " " * (-len(text.encode("utf-8")) % _ALIGNMENT)
