"""From logical axes to a sharding for every array of a state or batch."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unimod_jax.parallel.sharding_rules import ShardingRules


def tree_sharding(abstract: object, mesh: Mesh, rules: ShardingRules) -> Any:
    """A NamedSharding per leaf of a tree whose parameters carry logical axes.

    Args:
      abstract: tree of shapes in which parameters (and the optimizer slots made like
        them) are `nn.Partitioned` boxes; anything else is replicated.
      mesh: the device mesh.
      rules: logical to mesh axes.

    Returns:
      The same tree without boxes, of shardings.

    Raises:
      ValueError: if an axis is not divisible by the devices it is cut over, naming the
        parameter and the rule that keeps it whole.
    """

    def sharding(path: tuple, leaf: object) -> object:
        if not isinstance(leaf, nn.Partitioned):
            return NamedSharding(mesh, PartitionSpec())
        if not jax.tree.leaves(leaf.value):
            return leaf.value  # an optimizer slot that its mask leaves empty
        _check_divisible(path, leaf.names, leaf.value.shape, mesh, rules)
        return NamedSharding(mesh, rules.spec(leaf.names))

    return jax.tree_util.tree_map_with_path(
        sharding, abstract, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )


def _check_divisible(
    path: tuple,
    axes: Sequence[str | None],
    shape: tuple[int, ...],
    mesh: Mesh,
    rules: ShardingRules,
) -> None:
    for axis, length in zip(axes, shape, strict=True):
        names = rules.mesh_axes(axis) if axis else ()
        parts = math.prod(mesh.shape[name] for name in names)
        if names and length % parts:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{name} of shape {shape} has {length} entries along its axis "
                f"{axis!r}, which the {parts} devices of mesh axis {' x '.join(names)} "
                f"do not divide; choose another --mesh.{names[-1]}, or keep the axis "
                f"whole with --sharding.{axis} None."
            )


def batch_sharding(mesh: Mesh, rules: ShardingRules) -> NamedSharding:
    """The sharding of every array of a batch: cut over rows, whole otherwise."""
    return NamedSharding(mesh, rules.spec(("batch",)))
