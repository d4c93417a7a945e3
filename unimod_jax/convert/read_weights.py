"""Published weights, read into the parameters of any model of their architecture.

Each parameter is made where it stays (`read_array`). What it starts from is
`models.warm_start.stacked_sources`: towers are copies, routers are fresh. Where a model
begins larger than its files (`growth`), what they lack is as a fresh model has it.
"""

import functools
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from unimod_jax.convert.check_tensors import check_tensors
from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.read_array import read_array
from unimod_jax.convert.tensor_files import TensorFiles
from unimod_jax.convert.weight_map import FileTensor, JoinedTensors, Table
from unimod_jax.layout import RowLayout
from unimod_jax.models import ModelSpec, UnifiedModel
from unimod_jax.models.accounting import abstract_rows
from unimod_jax.models.parameter_path import DENSE_TOWER, Path
from unimod_jax.models.warm_start import stacked_sources
from unimod_jax.parallel import ShardingRules, tree_sharding

_PARAMS = "params"


def read_weights(
    files: TensorFiles,
    table: Table,
    spec: ModelSpec,
    layouts: Mapping[str, RowLayout],
    mesh: Mesh | None = None,
    rules: ShardingRules | None = None,
    *,
    elsewhere: Sequence[str] = (),
    grown: Mapping[Path, tuple[int, ...]] = MappingProxyType({}),
    dtype: jax.typing.DTypeLike = jnp.float32,
    seed: int = 0,
) -> dict[str, Any]:
    """The variables of a model that starts from published weights, each in its place.

    Dense models get the weights, towers a copy each, routers and thresholds start
    fresh, so at keep ratio 1 all compute the same. Beyond the parameters themselves the
    host holds the local parts of one parameter at a time, and a few megabytes of file.
    Of parameters that grow, one at a time is there twice.

    Args:
      files: opened; checked against the table first.
      table: of the published model, for `spec.config` less what has grown.
      spec: of the model to make.
      layouts: task -> layout of all its tasks.
      mesh, rules: where each parameter goes; one device unless given.
      elsewhere: prefixes of tensors in the files that other tables read.
      grown: dense parameters that are larger than the table has them, or not in it,
        and their shapes; their other rows are fresh. Only what starts alike in all
        towers can be: vocabulary rows and norms.
      dtype: of what is read; what is fresh is as initialised.
      seed: of what is fresh.

    Returns:
      Flax collections: "params" and, for routed models, their state.

    Raises:
      ConversionError: for tensors that are missing, extra or of another shape.
      ValueError: for a spec that is not of the table's architecture.
    """
    check_tensors(files, [table], elsewhere)
    init = functools.partial(_initialise, spec, layouts, seed)
    abstract = jax.eval_shape(init)
    target = _flat(nn.unbox(abstract))
    places = _places(abstract, target, mesh, rules or ShardingRules())
    sources = _sources(target, spec, table, grown)
    begun = {path for path, of_leaf in sources.items() if grown.keys() & set(of_leaf)}
    fresh = {path for path in target if path not in sources}
    made = _fresh(init, {path: places[path] for path in fresh | begun})
    # Grown ones first, so that what they are drawn from is gone before the rest comes.
    for path in sorted(sources, key=lambda path: path not in begun):
        entries, shape = [table[source] for source in sources[path]], target[path].shape
        begins = made.pop(path, None)
        made[path] = read_array(files, entries, shape, dtype, places[path], begins)
    return flax.traverse_util.unflatten_dict({path: made[path] for path in target})


def read_parameters(
    files: TensorFiles, table: Table, dtype: jax.typing.DTypeLike = jnp.float32
) -> dict[str, Any]:
    """A tree of parameters exactly as a table has them, on one device.

    For the small parts that are not the language model: image tokenizers, projectors.
    The caller checks (`check_tensors`) the files with all its tables together.

    Args:
      files: opened.
      table: of everything to read.
      dtype: of the parameters, but for integers, which are int32 (JAX's own).
    """
    place = SingleDeviceSharding(jax.local_devices()[0])

    def parameter(entry: FileTensor | JoinedTensors) -> jax.Array:
        counts = jnp.issubdtype(files.dtype(entry.tensors[0].name), jnp.integer)
        own = jnp.int32 if counts else dtype
        return read_array(files, [entry], entry.parameter_shape, own, place)

    return flax.traverse_util.unflatten_dict(
        {path: parameter(entry) for path, entry in table.items()}
    )


def _initialise(
    spec: ModelSpec, layouts: Mapping[str, RowLayout], seed: int
) -> dict[str, Any]:
    rows = spec.towers.rows_per_expert_group
    abstract = {t: abstract_rows(spec, layout, rows) for t, layout in layouts.items()}
    batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    return dict(UnifiedModel(spec).init(jax.random.key(seed), batch))


def _places(
    abstract: Any, target: Mapping[Path, Any], mesh: Mesh | None, rules: ShardingRules
) -> dict[Path, Sharding]:
    if mesh is None:
        return dict.fromkeys(target, SingleDeviceSharding(jax.local_devices()[0]))
    return _flat(tree_sharding(abstract, mesh, rules))


def _fresh(
    init: Callable[[], dict[str, Any]], places: Mapping[Path, Sharding]
) -> dict[Path, jax.Array]:
    """Some parameters as initialised, each in its place."""
    if not places:
        return {}
    # XLA draws none of the weights that are not returned.
    make = jax.jit(lambda: _only(places, nn.unbox(init())), out_shardings=dict(places))
    return make()


def _sources(
    target: Mapping[Path, Any],
    spec: ModelSpec,
    table: Table,
    grown: Mapping[Path, tuple[int, ...]],
) -> dict[Path, tuple[Path, ...]]:
    """`stacked_sources` of what the files hold, or hold a part of."""
    held = {path: entry.parameter_shape for path, entry in table.items()}
    _check_grown(held, grown)
    params = {path[1:]: leaf.shape for path, leaf in target.items() if _is_param(path)}
    sources = stacked_sources(params, spec.designs, {**held, **grown})
    return {
        (_PARAMS, *path): of_leaf
        for path, of_leaf in sources.items()
        if table.keys() & set(of_leaf)
    }


def _check_grown(
    held: Mapping[Path, tuple[int, ...]], grown: Mapping[Path, tuple[int, ...]]
) -> None:
    for path, shape in grown.items():
        name, start = "/".join(path), held.get(path, (0,) * len(shape))
        if len(start) != len(shape) or any(map(operator.gt, start, shape)):
            raise ConversionError(
                f"{name} has shape {start} in the files and cannot grow into {shape}; "
                "begin a model that is at least as large."
            )
        if DENSE_TOWER in path and not any(part.endswith("_norm") for part in path):
            raise ConversionError(
                f"{name} would start differently in each tower, so it cannot be fresh; "
                "give files that hold it."
            )


def _only(paths: Collection[Path], tree: Any) -> dict[Path, jax.Array]:
    return {path: leaf for path, leaf in _flat(tree).items() if path in paths}


def _is_param(path: Path) -> bool:
    return path[0] == _PARAMS


def _flat(tree: Any) -> dict[Any, Any]:
    return flax.traverse_util.flatten_dict(tree)
