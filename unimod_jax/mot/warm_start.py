"""Towers that start as copies of each other: MoT as a warm start of one network.

2411.04996 does not say how towers start; by default each draws its own values. With
copies, a model over towers starts as the dense model with the same parameters.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

TOWER_MODULES = (
    "query",
    "key",
    "value",
    "output",
    "query_norm",
    "key_norm",
    "attention_norm",
    "feed_forward",
    "feed_forward_norm",
    "final_norm",
)
"""Names of the modules that are `Towers`: the components, qk_norm as its two norms."""


def copy_towers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Makes every tower of every component a copy of the component's first tower.

    A component is recognised by its name (`TOWER_MODULES`) anywhere in the tree, and by
    holding nothing but modules: its towers. Everything else stays as it is, stacked and
    boxed parameters included. First means first in alphabetical order, because a tree
    that was jitted has forgotten any other.

    Args:
      params: parameters of a block or a model.

    Returns:
      A tree of the same structure; no array is in it twice, so it can be donated.

    Raises:
      ValueError: for towers of one component that differ in their parameters.
    """
    return {
        name: _copied(name, child) if _holds_towers(name, child) else _below(child)
        for name, child in params.items()
    }


def _holds_towers(name: str, child: Any) -> bool:
    return (
        name in TOWER_MODULES
        and isinstance(child, Mapping)
        and len(child) > 0
        and all(isinstance(tower, Mapping) for tower in child.values())
    )


def _below(child: Any) -> Any:
    return copy_towers(child) if isinstance(child, Mapping) else child


def _copied(component: str, towers: Mapping[str, Any]) -> dict[str, Any]:
    first, *others = sorted(towers)
    for other in others:
        if _shapes(towers[other]) != _shapes(towers[first]):
            raise ValueError(
                f"the towers {first!r} and {other!r} of {component!r} differ in their "
                "parameters, so one cannot start as a copy of the other; build them "
                "alike, or let them draw their own values."
            )
    return {
        tower: child if tower == first else jax.tree.map(jnp.copy, towers[first])
        for tower, child in towers.items()
    }


def _shapes(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [leaf.shape for leaf in leaves]
