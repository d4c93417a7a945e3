"""What a parameter is called: its layer, component and tower, whatever scans it.

A model stacks the parameters of alike neighbours in one array, and where such a run of
layers begins and ends depends on the plan. A parameter's one name does not:

    ("layers", "3", "block", "query", "text", "kernel")     of the whole model: layer 3
    ("layers", "3", "routers_captions", "text")             the router of a task there
    ("embedding", "table"), ("final_norm", "shared", "scale"), ("vocabulary_head", ...)

The one tower of a dense model is "shared". Metrics, optimiser groups, warm starts,
published files and analyses know parameters by these names. `layered` takes a model's
tree apart into them and `stacked` puts it together again; both do so for parameters,
for the state of routers, and for optimiser states, which hold trees like these.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from unimod_jax.models.layer_design import LayerRun, layer_runs

type Path = tuple[str, ...]

LAYERS = "layers"
"""What the name of a parameter of a layer begins with."""

DENSE_TOWER = "shared"
"""The one tower of what is tied."""

_STACK = "transformer"
_RUN = "run_"
_ROUTING = ("routers_", "choices_")
"""How the layer's submodules of its routes are called; a dense model has none."""


# --- Names ----------------------------------------------------------------------------


def run_name(index: int) -> str:
    """What the module of a scanned run of layers is called."""
    return f"{_RUN}{index}"


@functools.cache
def run_layers(designs: LayerRun) -> tuple[range, ...]:
    """The numbers of the layers of each scanned run."""
    found, first = [], 0
    for run in layer_runs(designs):
        found.append(range(first, first + len(run)))
        first += len(run)
    return tuple(found)


def members(path: Path, designs: LayerRun) -> tuple[Path, ...]:
    """The names of the parameters that an array of a model's tree holds.

    Args:
      path: of the array in the model's tree.
      designs: of the model's layers.

    Returns:
      One per layer of the run that the array stacks, in their order; one alone for an
      array that stacks nothing.
    """
    place = _run_place(path)
    if place is None:
        return (path,)
    run = int(path[place].removeprefix(_RUN))
    before, behind = path[: place - 1], path[place + 1 :]
    return tuple(
        (*before, LAYERS, str(layer), *behind) for layer in run_layers(designs)[run]
    )


def is_stacked(path: Path) -> bool:
    """Whether an array of a model's tree has an axis of layers."""
    return _run_place(path) is not None


def _run_place(path: Path) -> int | None:
    """Where in the path the run is named."""
    for place in range(1, len(path)):
        if path[place - 1] == _STACK and path[place].startswith(_RUN):
            return place
    return None


# --- Trees ----------------------------------------------------------------------------


def by_path(tree: Any) -> dict[Path, Any]:
    """The leaves of a tree by their paths in it, as text."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_names(path): leaf for path, leaf in leaves}


def map_with_path(function: Callable[[Path, Any], Any], tree: Any) -> Any:
    """A tree of the same structure, made of (path as text, leaf)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(_names(path), leaf), tree
    )


def layered(tree: Any, designs: LayerRun) -> dict[Path, Any]:
    """A model's tree, flat and with its layers apart.

    Args:
      tree: unboxed parameters, router state, or a tree that holds such trees.
      designs: of the model's layers.
    """
    flat = {}
    for path, leaf in by_path(tree).items():
        names = members(path, designs)
        parts = [leaf[n] for n in range(len(names))] if is_stacked(path) else [leaf]
        flat |= dict(zip(names, parts, strict=True))
    return flat


def stacked(flat: Mapping[Path, Any], like: Any, designs: LayerRun) -> Any:
    """The tree that a flat one is of: what `layered` was given.

    Args:
      flat: name -> array, all that `like` asks for.
      like: a tree of the structure to make.
      designs: of the layers of its model.
    """

    def made(path: Path, _: Any) -> Any:
        parts = [flat[name] for name in members(path, designs)]
        return jnp.stack(parts) if is_stacked(path) else parts[0]

    return map_with_path(made, like)


def _names(path: tuple) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


# --- Kinds ----------------------------------------------------------------------------


def chooses_tokens(path: Path) -> bool:
    """Whether it belongs to a route: to a router, or to a rule that chooses."""
    return any(name.startswith(_ROUTING) for name in path)


def decays(path: Path) -> bool:
    """Whether weight decay is for it: kernels and tables, not norms and biases."""
    return not any(name.endswith(("norm", "bias")) for name in path)


def is_embedding(path: Path) -> bool:
    """Whether it is of the vocabulary table, the head or image positions."""
    return path[0] == "vocabulary_head" or path[-1] in ("table", "image_position")


def component_and_tower(path: Path) -> tuple[Path, str | None]:
    """What component it is of, down to its layer, and of which tower; or no tower."""
    for start in ("block", "final_norm"):
        if start in path:
            end = path.index(start) + (2 if start == "block" else 1)
            return path[:end], path[end]
    return path, None
