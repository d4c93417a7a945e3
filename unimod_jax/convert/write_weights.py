"""Weights back into published files: what was read unchanged is written unchanged."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.manifest import Manifest
from unimod_jax.convert.tensor_files import TensorFiles
from unimod_jax.convert.weight_map import FileTensor, JoinedTensors, Table
from unimod_jax.convert.write_files import tensors_of, write_files
from unimod_jax.models import ModelSpec
from unimod_jax.models.parameter_path import (
    DENSE_TOWER,
    LAYERS,
    Path,
    component_and_tower,
    is_stacked,
)
from unimod_jax.models.warm_start import stacked_sources

type Values = dict[str, Callable[[], np.ndarray]]


def write_weights(
    params: Mapping[str, Any],
    spec: ModelSpec,
    table: Table,
    manifest: Manifest,
    directory: FilePath | str,
    *,
    tower: str | None = None,
    rest: TensorFiles | None = None,
) -> None:
    """Writes the base weights of a model as the files that they were published in.

    One tensor at a time is in host memory. Routers are not part of published layouts
    and are left out.

    Args:
      params: unboxed parameters, of any spec that `read_weights` makes.
      spec: their model's.
      table: that the weights were read with.
      manifest: of the files that were read, or from `new_manifest`.
      directory: must not exist yet; it appears when everything is written.
      tower: which modality's tower to write, such as "text"; needed where towers have
        become different.
      rest: published files, for the tensors that the table does not describe.

    Raises:
      ConversionError: for towers that differ and no choice among them, or a manifest
        whose tensors are not all there.
    """
    values = {}
    if rest is not None:
        held = [name for name in tensors_of(manifest) if name in rest]
        values = {name: functools.partial(rest.read, name) for name in held}
    values |= weight_values(params, spec, table, tower)
    write_files(manifest, directory, values)


def weight_values(
    params: Mapping[str, Any], spec: ModelSpec, table: Table, tower: str | None = None
) -> Values:
    """Name of each tensor of a table -> what makes its values from the parameters.

    Args:
      params, spec, table, tower: as of `write_weights`.

    Returns:
      Functions for `write_files`; each gathers its tensor from all devices. Layers that
      every task skips have no weights, and are not in it.
    """
    flat: Any = flax.traverse_util.flatten_dict(dict(params))
    shapes = {path: entry.parameter_shape for path, entry in table.items()}
    held = {path: leaf.shape for path, leaf in flat.items()}
    sources = stacked_sources(held, spec.designs, shapes)
    held_by: dict[Path, list[tuple[Path, int]]] = {}
    for path, of_leaf in sources.items():
        for layer, source in enumerate(of_leaf):
            held_by.setdefault(source, []).append((path, layer))
    return {
        tensor.name: functools.partial(
            _tensor, flat, source, holders, table[source], part, tower
        )
        for source, holders in held_by.items()
        for part, tensor in enumerate(table[source].tensors)
    }


def parameter_values(params: Mapping[str, Any], table: Table) -> Values:
    """`weight_values` of a tree that `read_parameters` made.

    Args:
      params: exactly as the table has them.
      table: that they were read with.
    """
    flat: Any = flax.traverse_util.flatten_dict(dict(params))
    return {
        tensor.name: functools.partial(
            _tensor, flat, path, [(path, 0)], entry, part, None
        )
        for path, entry in table.items()
        for part, tensor in enumerate(entry.tensors)
    }


def _tensor(
    flat: Mapping[Path, jax.Array],
    source: Path,
    holders: list[tuple[Path, int]],
    entry: FileTensor | JoinedTensors,
    part: int,
    tower: str | None,
) -> np.ndarray:
    """One tensor of a file, in the file's shape."""
    value = _chosen(flat, source, holders, tower)
    if isinstance(entry, JoinedTensors):
        value = _part(value, entry, part)
    return entry.tensors[part].rearrangement.to_theirs(value)


def _part(value: np.ndarray, entry: JoinedTensors, part: int) -> np.ndarray:
    if entry.axis is None:
        return value
    lengths = [each.parameter_shape[entry.axis] for each in entry.tensors]
    first = sum(lengths[:part])
    before = (slice(None),) * entry.axis
    return value[*before, first : first + lengths[part]]


def _chosen(
    flat: Mapping[Path, jax.Array],
    source: Path,
    holders: list[tuple[Path, int]],
    tower: str | None,
) -> np.ndarray:
    """The parameter of the tower asked for, or of the one value all towers have."""
    named = [(_tower_of(path), (path, layer)) for path, layer in holders]
    names = ", ".join(name for name, _ in named)
    if len(named) > 1 and tower is not None:
        named = [(name, at) for name, at in named if tower in name.split("+")]
        if not named:
            raise ConversionError(
                f"{_name(source)} has no tower {tower!r}; choose one of {names}."
            )
    value = _layer_of(flat, named[0][1])
    for _, other in named[1:]:
        if _layer_of(flat, other).tobytes() != value.tobytes():
            raise ConversionError(
                f"the towers {names} of {_name(source)} differ, and published files "
                "have one; choose whose weights to write with tower=..."
            )
    return value


def _tower_of(path: Path) -> str:
    """The name of the tower that a parameter belongs to."""
    return component_and_tower(path)[1] or DENSE_TOWER


def _name(source: Path) -> str:
    of_layer = source[0] == LAYERS
    name = "/".join(source[2:] if of_layer else source)
    return f"{name} of layer {source[1]}" if of_layer else name


def _layer_of(flat: Mapping[Path, jax.Array], holder: tuple[Path, int]) -> np.ndarray:
    path, layer = holder
    leaf = flat[path]
    if not leaf.is_fully_addressable:
        raise ConversionError(
            f"{'/'.join(path)} is spread over several processes; restore the "
            "checkpoint on one machine to export it."
        )
    return np.asarray(_row(leaf, layer) if is_stacked(path) else leaf)


@jax.jit
def _row(leaf: jax.Array, layer: int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
