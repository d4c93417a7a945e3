"""From logical axes to a sharding for every array of a state or batch."""

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
      ValueError: if an axis is not divisible by the devices it is cut over.
    """

    def sharding(leaf: object) -> object:
        if not isinstance(leaf, nn.Partitioned):
            return NamedSharding(mesh, PartitionSpec())
        if not jax.tree.leaves(leaf.value):
            return leaf.value  # an optimizer slot that its mask leaves empty
        spec = rules.spec(leaf.names)
        result = NamedSharding(mesh, spec)
        shape = leaf.value.shape
        try:
            result.shard_shape(shape)
        except ValueError as error:
            raise ValueError(
                f"a parameter of shape {shape} with axes {leaf.names} does not divide "
                f"over mesh {dict(mesh.shape)} as {spec}; change the mesh or the rules."
            ) from error
        return result

    return jax.tree.map(
        sharding, abstract, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )


def batch_sharding(mesh: Mesh, rules: ShardingRules) -> NamedSharding:
    """The sharding of every array of a batch: cut over rows, whole otherwise."""
    return NamedSharding(mesh, rules.spec(("batch",)))
