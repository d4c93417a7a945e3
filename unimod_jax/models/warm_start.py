"""From a trained model to one with towers, with routes, with both, or another plan.

Towers that start from a dense model are copies of its weights, so the new model
computes what the dense one did (2411.04996 trains from scratch; copies are how trained
models are adapted, as in LMFusion, 2412.15188). Routers that both models have are
copied, new ones start at zero: with the weight 1 + 0.2 tanh and everything kept, a
routed layer is the dense layer, exactly.

`parameter_sources` says it in names (`parameter_path`) and shapes alone: what is given
may be arrays of a model, or tensors of a published file that nobody has read yet.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from unimod_jax.models.layer_design import LayerRun
from unimod_jax.models.parameter_path import (
    DENSE_TOWER,
    LAYERS,
    Path,
    chooses_tokens,
    component_and_tower,
    is_stacked,
    layered,
    members,
    stacked,
)

type Shapes = Mapping[Path, tuple[int, ...]]


def warm_start(
    given: Any, given_designs: LayerRun, fresh: Any, designs: LayerRun
) -> Any:
    """The variables of a model that start from another's, of the same architecture.

    Args:
      given: unboxed variables of the model to start from: parameters, or parameters
        and router state.
      given_designs: of its layers.
      fresh: the same of the new model as initialised; what the other has not is taken
        from them.
      designs: of its layers.

    Returns:
      Variables shaped as `fresh`.

    Raises:
      ValueError: if the models differ in depth or in what their layers are made of, or
        the given one has towers where the new one is tied.
    """
    held, mine = layered(given, given_designs), layered(fresh, designs)
    sources = parameter_sources(_shapes(mine), _shapes(held), len(designs))
    started = {
        path: held[sources[path]] if path in sources else leaf
        for path, leaf in mine.items()
    }
    return stacked(started, fresh, designs)


def stacked_sources(
    target: Shapes, designs: LayerRun, given: Shapes
) -> dict[Path, tuple[Path, ...]]:
    """`parameter_sources` for the arrays of a model's own tree, which stack layers.

    Args:
      target: path of each array in the model's tree -> shape.
      designs: of its layers.
      given: as of `parameter_sources`.

    Returns:
      Path of the model's array -> names of what it starts from: one per layer that it
      stacks, else one. What is fresh is not in it.

    Raises:
      ValueError: as `parameter_sources`.
    """
    names = {path: members(path, designs) for path in target}
    shapes = {
        name: shape[1:] if is_stacked(path) else shape
        for path, shape in target.items()
        for name in names[path]
    }
    sources = parameter_sources(shapes, given, len(designs))
    return {
        path: tuple(sources[name] for name in of_path)
        for path, of_path in names.items()
        if sources.keys() >= set(of_path)
    }


def parameter_sources(
    target: Shapes, given: Shapes, num_layers: int
) -> dict[Path, Path]:
    """Which given parameter each parameter of a model starts from.

    Args:
      target: name of each of the model's parameters -> shape.
      given: name of each parameter to start from -> shape.
      num_layers: of the model.

    Returns:
      Name of the model's parameter -> name of a given one. Routers and thresholds that
      are not given are not in it.

    Raises:
      ValueError: if the models differ in depth or in what their layers are made of, or
        the given one has towers where the target is tied.
    """
    _check_depth(target, given, num_layers)
    sources: dict[Path, Path] = {}
    for path, shape in target.items():
        if not chooses_tokens(path):
            sources[path] = _source(path, shape, given)
        elif given.get(path) == shape:
            sources[path] = path
    _check_all_used(sources, given)
    return sources


def _source(path: Path, shape: tuple[int, ...], given: Shapes) -> Path:
    """The given parameter of the same tower, or of the one tower there is."""
    as_dense = (
        (*path[:place], DENSE_TOWER, *path[place + 1 :]) for place in range(len(path))
    )
    for candidate in (path, *as_dense):
        if given.get(candidate) == shape:
            return candidate
    component, tower = component_and_tower(path)
    others = {component_and_tower(name) for name in given}
    towers = sorted(str(other) for found, other in others if found == component)
    if tower and towers and tower not in towers and towers != [DENSE_TOWER]:
        raise ValueError(
            f"the given {'/'.join(_inner(component))} has towers {', '.join(towers)} "
            f"but the new model's has {tower}; untie the same components by the same "
            f"modalities, or start from a dense model."
        )
    raise ValueError(
        f"the given model has no parameter for {'/'.join(_inner(path))} of shape "
        f"{shape}; give both models the same sizes and architecture."
    )


def _check_depth(target: Shapes, given: Shapes, num_layers: int) -> None:
    """Layers that every task skips have no parameters, so the last may not be seen."""
    needed, held = _layers(target), _layers(given)
    depth = max(held, default=-1) + 1
    if depth > num_layers or (depth < num_layers and not needed <= held):
        raise ValueError(
            f"the given model has parameters of {depth} layers but the new model has "
            f"{num_layers} layers; give both the same num_layers, and none that all "
            f"tasks skip."
        )


def _layers(paths: Iterable[Path]) -> set[int]:
    """The layers that have a block's parameters."""
    return {
        int(path[path.index(LAYERS) + 1])
        for path in paths
        if LAYERS in path and not chooses_tokens(path)
    }


def _check_all_used(sources: Mapping[Path, Path], given: Shapes) -> None:
    used = set(sources.values())
    # A layer that every task skips has no parameters and needs none.
    held = _layers(used)
    for path in sorted(set(given) - used):
        unneeded = LAYERS in path and not _layers([path]) <= held
        if chooses_tokens(path) or unneeded:
            continue
        raise ValueError(
            f"the new model has no place for its {'/'.join(_inner(path))}; give both "
            f"models the same architecture."
        )


def _inner(path: Path) -> Path:
    """A name without its layer, for sentences that hold for all layers."""
    return path[path.index(LAYERS) + 2 :] if LAYERS in path else path


def _shapes(flat: Mapping[Path, jax.Array]) -> Shapes:
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}
