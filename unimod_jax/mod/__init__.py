"""UniMoD (arXiv 2502.06474): each task has its own router in each routed layer.

A router scores tokens, a selection keeps a static capacity of them in sequence order,
the layer runs on the kept tokens only, and what it adds is weighted by the score and
put back; skipped tokens pass unchanged.
Reading order: `layer_plan`, `capacity`, `task_router`, `selection`, `causal_gate`,
`routed_layer`.
"""

from unimod_jax.mod.capacity import capacity
from unimod_jax.mod.causal_gate import CausalGate
from unimod_jax.mod.layer_plan import (
    LayerPlan,
    LayerSpec,
    Route,
    every_other_layer,
    last_half,
    plan_layers,
    runs,
)
from unimod_jax.mod.routed_layer import move_rows, routed_delta
from unimod_jax.mod.selection import Selection, pack, select_above, select_top_k
from unimod_jax.mod.task_router import TaskRouter, gentle_weight

__all__ = [
    "CausalGate",
    "LayerPlan",
    "LayerSpec",
    "Route",
    "Selection",
    "TaskRouter",
    "capacity",
    "every_other_layer",
    "gentle_weight",
    "last_half",
    "move_rows",
    "pack",
    "plan_layers",
    "routed_delta",
    "runs",
    "select_above",
    "select_top_k",
]
