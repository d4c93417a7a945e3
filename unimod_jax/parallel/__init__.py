"""Meshes and sharding: what each logical axis means, and where each array goes.

Reading order: `mesh`, `sharding_rules`, `state_sharding` (parameters and optimizer
slots), `activation_sharding` (everything between them).
"""

from unimod_jax.parallel.activation_sharding import (
    automatic_axes,
    constrain,
    cutting_axes,
    num_parts,
    on_mesh,
)
from unimod_jax.parallel.mesh import MeshConfig, make_mesh
from unimod_jax.parallel.sharding_rules import MeshAxes, ShardingRules
from unimod_jax.parallel.state_sharding import batch_sharding, tree_sharding

__all__ = [
    "MeshAxes",
    "MeshConfig",
    "ShardingRules",
    "automatic_axes",
    "batch_sharding",
    "constrain",
    "cutting_axes",
    "make_mesh",
    "num_parts",
    "on_mesh",
    "tree_sharding",
]
