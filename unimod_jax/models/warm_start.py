"""From a trained dense model to towers, to routed layers, or to both.

Every tower starts as a copy of the dense weights, so the converted model computes what
the dense one did (2411.04996 trains from scratch; copies are how trained models are
adapted, as in LMFusion, 2412.15188). Routers start at zero: with the weight
1 + 0.2 tanh and everything kept, a routed layer is the dense layer, exactly.
"""

from typing import Any, cast

import flax.traverse_util
import jax
import jax.numpy as jnp

from unimod_jax.models.transformer import layer_runs
from unimod_jax.models.unified import ModelSpec

type Params = dict[str, Any]
type _Path = tuple[str, ...]
type _Flat = dict[_Path, jax.Array]

_DENSE_TOWER = "shared"
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
    source = _flat_layers(dense, dense_spec)
    target = _flat_layers(fresh, spec)
    if len(source) != len(target):
        raise ValueError(
            f"the dense model has {len(source)} layers but the target has "
            f"{len(target)}; give both the same num_layers."
        )
    started = [_start(*pair) for pair in zip(target, source, strict=True)]
    given_around = _flat({k: v for k, v in dense.items() if k != "transformer"})
    around = _flat({k: v for k, v in fresh.items() if k != "transformer"})
    rest = _start(around, given_around)
    return flax.traverse_util.unflatten_dict(rest) | {
        "transformer": _stack(started, spec)
    }


def _start(fresh: _Flat, given: _Flat) -> _Flat:
    """The dense parameters in every tower, and routers as they are."""
    source = {
        path: _source(path, leaf, given)
        for path, leaf in fresh.items()
        if not path[0].startswith(_ROUTING)
    }
    unused = sorted(set(given) - set(source.values()))
    # A layer that every task skips has no parameters and needs none.
    if fresh and unused:
        raise ValueError(
            f"the target has no place for {'/'.join(unused[0])} of the dense model; "
            f"give both models the same architecture."
        )
    return {
        path: given[source[path]] if path in source else leaf
        for path, leaf in fresh.items()
    }


def _source(path: _Path, fresh: jax.Array, given: _Flat) -> _Path:
    """The dense parameter for a path, whatever tower it names."""
    for place in range(len(path)):
        dense_path = (*path[:place], _DENSE_TOWER, *path[place + 1 :])
        for candidate in (path, dense_path):
            if candidate in given and given[candidate].shape == fresh.shape:
                return candidate
    raise ValueError(
        f"the dense model has no parameter for {'/'.join(path)} of shape "
        f"{fresh.shape}; give both models the same sizes and architecture."
    )


def _flat(tree: Params) -> _Flat:
    return cast(_Flat, flax.traverse_util.flatten_dict(tree))


def _flat_layers(params: Params, spec: ModelSpec) -> list[_Flat]:
    """The parameters of each layer, unstacked from the runs they are scanned in."""
    layers: list[_Flat] = []
    for index, run in enumerate(layer_runs(spec.designs)):
        # A run that every task skips has no parameters.
        stacked = _flat(params["transformer"].get(f"run_{index}", {}))
        layers += [
            {path: leaf[layer] for path, leaf in stacked.items()}
            for layer in range(len(run))
        ]
    return layers


def _stack(layers: list[_Flat], spec: ModelSpec) -> Params:
    """The inverse of `_flat_layers`."""
    runs, first = {}, 0
    for index, run in enumerate(layer_runs(spec.designs)):
        members = layers[first : first + len(run)]
        first += len(run)
        stacked = {
            path: jnp.stack([layer[path] for layer in members]) for path in members[0]
        }
        if stacked:
            runs[f"run_{index}"] = flax.traverse_util.unflatten_dict(stacked)
    return runs
