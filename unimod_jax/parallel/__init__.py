"""Meshes and sharding: what each logical axis means, and where each array goes."""

from unimod_jax.parallel.mesh import MeshConfig, make_mesh
from unimod_jax.parallel.sharding_rules import ShardingRules
from unimod_jax.parallel.state_sharding import batch_sharding, tree_sharding

__all__ = [
    "MeshConfig",
    "ShardingRules",
    "batch_sharding",
    "make_mesh",
    "tree_sharding",
]
