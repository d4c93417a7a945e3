"""Weights of released models, from their published files and back, unchanged.

A table says which tensor of a file is which parameter (`weight_map`); `phi`, `show_o`,
`emu3`, `chameleon` and `chameleon_shards` make the tables of language models from their
architecture, and `layouts` knows them all by name.
Reading order: `weight_map`, `safetensors_format`, `tensor_files`, `layer_table`, one
family, `layouts`, `check_tensors`, `read_array`, `read_weights`, `manifest`,
`write_files`, `write_weights`, `growth`.
"""

from unimod_jax.convert.check_tensors import check_tensors
from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.layouts import (
    LAYOUTS,
    PublishedLayout,
    layout_of,
    recognised,
)
from unimod_jax.convert.manifest import FileRecord, Manifest, new_manifest
from unimod_jax.convert.published_config import check_config, read_config
from unimod_jax.convert.read_weights import read_parameters, read_weights
from unimod_jax.convert.tensor_files import TensorFiles, open_tensor_files
from unimod_jax.convert.weight_map import (
    AS_IS,
    KERNEL_1D,
    KERNEL_2D,
    KERNEL_3D,
    TRANSPOSED,
    FileTensor,
    JoinedTensors,
    Rearrangement,
    Table,
    WeightMap,
    axes_moved,
)
from unimod_jax.convert.write_files import write_files
from unimod_jax.convert.write_weights import (
    parameter_values,
    weight_values,
    write_weights,
)

__all__ = [
    "FileTensor",
    "JoinedTensors",
    "WeightMap",
    "Table",
    "Rearrangement",
    "AS_IS",
    "TRANSPOSED",
    "KERNEL_1D",
    "KERNEL_2D",
    "KERNEL_3D",
    "axes_moved",
    "ConversionError",
    "TensorFiles",
    "open_tensor_files",
    "LAYOUTS",
    "PublishedLayout",
    "layout_of",
    "recognised",
    "read_config",
    "check_config",
    "check_tensors",
    "read_weights",
    "read_parameters",
    "FileRecord",
    "Manifest",
    "new_manifest",
    "write_files",
    "parameter_values",
    "weight_values",
    "write_weights",
]
