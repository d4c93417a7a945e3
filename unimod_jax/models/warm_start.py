"""From a trained dense model to towers, to routed layers, or to both.

Every tower starts as a copy of the dense weights, so the converted model computes what
the dense one did (2411.04996 trains from scratch; copies are how trained models are
adapted, as in LMFusion, 2412.15188). Routers start at zero: with the weight
1 + 0.2 tanh and everything kept, a routed layer is the dense layer, exactly.

`dense_sources` says it in names and shapes alone: dense weights may be arrays of a
model, or tensors of a published file that nobody has read yet.
"""

import itertools
from collections.abc import Mapping
from typing import Any, cast

import flax.traverse_util
import jax
import jax.numpy as jnp

from unimod_jax.models.transformer import layer_runs
from unimod_jax.models.unified import ModelSpec

type Params = dict[str, Any]
type Path = tuple[str, ...]
type Shapes = Mapping[Path, tuple[int, ...]]

LAYERS = "layers"
"""A dense parameter of a layer is called (LAYERS, "3", "block", ...): unstacked."""

_STACK = "transformer"
DENSE_TOWER = "shared"
_ROUTING = ("routers_", "choices_")
"""How the layer's submodules of its routes are called; a dense model has none."""


def warm_start(
    dense: Params, dense_spec: ModelSpec, fresh: Params, spec: ModelSpec
) -> Params:
    """Parameters of a model with towers or routes that start from a dense model's.

    Args:
      dense: unboxed parameters of the dense model.
      dense_spec: its spec: one tower, no routes.
      fresh: unboxed parameters of the target as initialised; its routers are taken.
      spec: the target's spec, of the same sizes.

    Returns:
      Parameters shaped as `fresh`.

    Raises:
      ValueError: if the models differ in depth, or in what their layers are made of.
    """
    given, target = _unstacked(dense, dense_spec), _flat(fresh)
    sources = dense_sources(_shapes(target), spec, _shapes(given))

    def start(path: Path, leaf: jax.Array) -> jax.Array:
        if path not in sources:
            return leaf
        members = [given[source] for source in sources[path]]
        return jnp.stack(members) if path[0] == _STACK else members[0]

    return flax.traverse_util.unflatten_dict(
        {path: start(path, leaf) for path, leaf in target.items()}
    )


def dense_sources(
    target: Shapes, spec: ModelSpec, dense: Shapes
) -> dict[Path, tuple[Path, ...]]:
    """Which dense parameters each parameter of a model starts from.

    Args:
      target: path of each of the model's parameters -> shape.
      spec: its spec.
      dense: path of each dense parameter -> shape, layers unstacked (`LAYERS`).

    Returns:
      Path of the model's parameter -> paths of dense ones: one per layer that a scanned
      run stacks, else one. What belongs to routes has none, and is not in it.

    Raises:
      ValueError: if the models differ in depth, or in what their layers are made of.
    """
    _check_depth(spec, dense)
    lengths = [len(run) for run in layer_runs(spec.designs)]
    first = [0, *itertools.accumulate(lengths)]
    sources: dict[Path, tuple[Path, ...]] = {}
    for path, shape in target.items():
        if path[0] != _STACK:
            sources[path] = (_source((), path, shape, dense),)
            continue
        run, inner = int(path[1].removeprefix("run_")), path[2:]
        if inner[0].startswith(_ROUTING):
            continue
        sources[path] = tuple(
            _source((LAYERS, str(layer)), inner, shape[1:], dense)
            for layer in range(first[run], first[run + 1])
        )
    _check_all_used(sources, dense)
    return sources


def _source(
    layer: Path, path: Path, shape: tuple[int, ...], dense: Shapes
) -> tuple[str, ...]:
    """The dense parameter for a path, whatever tower it names."""
    for place in range(len(path)):
        as_dense = (*path[:place], DENSE_TOWER, *path[place + 1 :])
        for candidate in ((*layer, *path), (*layer, *as_dense)):
            if dense.get(candidate) == shape:
                return candidate
    raise ValueError(
        f"the dense model has no parameter for {'/'.join(path)} of shape "
        f"{shape}; give both models the same sizes and architecture."
    )


def _check_depth(spec: ModelSpec, dense: Shapes) -> None:
    num_layers = len({path[1] for path in dense if path[0] == LAYERS})
    if num_layers != len(spec.designs):
        raise ValueError(
            f"the dense model has {num_layers} layers but the target has "
            f"{len(spec.designs)}; give both the same num_layers."
        )


def _check_all_used(sources: Mapping[Path, tuple[Path, ...]], dense: Shapes) -> None:
    used = set(itertools.chain.from_iterable(sources.values()))
    # A layer that every task skips has no parameters and needs none.
    held = {path[:2] for path in used if path[0] == LAYERS}
    for path in sorted(set(dense) - used):
        of_layer = path[0] == LAYERS
        if of_layer and path[:2] not in held:
            continue
        name = "/".join(path[2:] if of_layer else path)
        raise ValueError(
            f"the target has no place for {name} of the dense model; give both models "
            f"the same architecture."
        )


def _flat(tree: Params) -> dict[Path, Any]:
    return cast(dict[Path, Any], flax.traverse_util.flatten_dict(tree))


def _shapes(flat: Mapping[Path, Any]) -> Shapes:
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def _unstacked(dense: Params, spec: ModelSpec) -> dict[Path, jax.Array]:
    """A dense model's parameters with the layers of its one run taken apart."""
    flat = _flat({name: tree for name, tree in dense.items() if name != _STACK})
    first = 0
    for index, run in enumerate(layer_runs(spec.designs)):
        for path, stacked in _flat(dense[_STACK][f"run_{index}"]).items():
            flat |= {
                (LAYERS, str(first + n), *path): stacked[n] for n in range(len(run))
            }
        first += len(run)
    return flat
