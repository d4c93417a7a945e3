"""How the tensors of a checkpoint lie in files: all that is not their values.

Kept beside converted weights, it lets an export write the very files that were read.
"""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np

from unimod_jax.convert.safetensors_format import make_header


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """One file.

    Attributes:
      name: the file's name.
      header: the text of its header, which fixes order, dtypes and metadata.
      prefix: what the names of its tensors are called with, outside of the file.
    """

    name: str
    header: str
    prefix: str = ""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All files of a checkpoint.

    Attributes:
      files: in order.
      index: name and text of the index of shards, or None.
    """

    files: tuple[FileRecord, ...]
    index: tuple[str, str] | None = None

    def to_json(self) -> str:
        """As text; the inverse of `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """From the text of `to_json`."""
        fields = json.loads(text)
        index = fields["index"]
        return cls(
            tuple(FileRecord(**record) for record in fields["files"]),
            None if index is None else (index[0], index[1]),
        )


_METADATA = {"format": "pt"}


def new_manifest(
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    shard_bytes: int = 5_000_000_000,
) -> Manifest:
    """Files as transformers would make them, for weights that were never published.

    Args:
      tensors: name -> (shape, dtype), in the order in which shards are filled.
      shard_bytes: a shard takes no more than this, unless one tensor does.
    """
    shards: list[dict[str, tuple[tuple[int, ...], np.dtype]]] = [{}]
    room, total = shard_bytes, 0
    for name, (shape, dtype) in tensors.items():
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = (shape, dtype)
        room, total = room - size, total + size
    if len(shards) == 1:
        header = make_header(shards[0], _METADATA)
        return Manifest((FileRecord("model.safetensors", header),))
    names = [
        f"model-{number:05}-of-{len(shards):05}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    files = [
        FileRecord(name, make_header(shard, _METADATA))
        for name, shard in zip(names, shards, strict=True)
    ]
    shard_of = {
        tensor: name
        for name, shard in zip(names, shards, strict=True)
        for tensor in shard
    }
    index = {"metadata": {"total_size": total}, "weight_map": shard_of}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    return Manifest(tuple(files), ("model.safetensors.index.json", text))
