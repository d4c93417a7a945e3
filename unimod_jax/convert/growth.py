"""A model whose training begins from the weights of a smaller one.

Its table, held beside the table of the files, says all: what is in both and larger
here has its first rows from the files, what is here alone is fresh.
"""

import dataclasses

import numpy as np

from unimod_jax.convert.layer_table import EMBEDDING
from unimod_jax.convert.manifest import Manifest, new_manifest
from unimod_jax.convert.tensor_files import TensorFiles
from unimod_jax.convert.weight_map import Table
from unimod_jax.models.parameter_path import Path


def growth(table: Table, larger: Table) -> dict[Path, tuple[int, ...]]:
    """The dense parameters of a larger model that files hold a part of, or nothing.

    Args:
      table: of the files.
      larger: of the model that begins from them.

    Returns:
      Path -> shape in the larger model, for `read_weights`.
    """
    held = {path: entry.parameter_shape for path, entry in table.items()}
    shapes = {path: entry.parameter_shape for path, entry in larger.items()}
    return {path: shape for path, shape in shapes.items() if held.get(path) != shape}


def grown_manifest(
    files: TensorFiles, table: Table, larger: Table, file_name: str
) -> Manifest:
    """The one file of a larger model, in the dtypes of the files that it begins from.

    Tensors that those do not hold have the dtype of their embedding.

    Args:
      files: of the smaller model.
      table: theirs.
      larger: of the model that begins from them.
      file_name: of its published file.
    """

    def dtype(path: Path) -> np.dtype:
        return files.dtype(table.get(path, table[EMBEDDING]).tensors[0].name)

    described = {
        tensor.name: (tensor.shape, dtype(path))
        for path, entry in larger.items()
        for tensor in entry.tensors
    }
    (record,) = new_manifest(described, shard_bytes=1 << 62).files
    return Manifest((dataclasses.replace(record, name=file_name),))
