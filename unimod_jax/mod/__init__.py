"""UniMoD (arXiv 2502.06474): each task has its own router in each routed layer.

A scorer ranks tokens, a rule keeps a static capacity of them in sequence order, the
layer runs on the kept tokens only, and what it adds is weighted by the score and put
back; skipped tokens pass unchanged. Mixture-of-Depths (2404.02258) and the papers'
comparisons are the same parts with other names in the plan.
Reading order: `layer_plan`, `keep_schedule`, `plan_file`, `route`, `capacity`,
`task_router`, `score_weight`, `selection`, `causal_gate`, `random_scorer`,
`membership_predictor`, `token_choice`, `routed_layer`.
"""

from unimod_jax.mod.capacity import capacity
from unimod_jax.mod.causal_gate import CausalGate
from unimod_jax.mod.keep_schedule import keep_ratios
from unimod_jax.mod.layer_plan import (
    LayerPlan,
    LayerRatios,
    TaskPlan,
    check_plan,
    every_other,
    in_every_other,
    in_layers,
    in_stairs,
    last_half,
    resampled,
    resampled_plan,
    runs,
    same_for,
)
from unimod_jax.mod.membership_predictor import MembershipPredictor, membership_loss
from unimod_jax.mod.plan_file import (
    plan_from,
    plan_from_json,
    plan_to_json,
    read_plan,
    write_plan,
)
from unimod_jax.mod.random_scorer import RandomScorer
from unimod_jax.mod.route import Route
from unimod_jax.mod.routed_layer import (
    ROUTED_DELTA,
    routed_delta,
    weighted,
)
from unimod_jax.mod.score_weight import SCORE_WEIGHTS, gentle_weight
from unimod_jax.mod.selection import Selection, pack, select_above, select_top_k
from unimod_jax.mod.task_router import TaskRouter, jitter
from unimod_jax.mod.token_choice import Chosen, TokenChoice, disagreement

__all__ = [
    "ROUTED_DELTA",
    "SCORE_WEIGHTS",
    "CausalGate",
    "Chosen",
    "LayerPlan",
    "LayerRatios",
    "MembershipPredictor",
    "RandomScorer",
    "Route",
    "Selection",
    "TaskPlan",
    "TaskRouter",
    "TokenChoice",
    "capacity",
    "check_plan",
    "disagreement",
    "every_other",
    "gentle_weight",
    "in_every_other",
    "in_layers",
    "in_stairs",
    "jitter",
    "keep_ratios",
    "last_half",
    "membership_loss",
    "pack",
    "plan_from",
    "plan_from_json",
    "plan_to_json",
    "read_plan",
    "resampled",
    "resampled_plan",
    "routed_delta",
    "runs",
    "same_for",
    "select_above",
    "select_top_k",
    "weighted",
    "write_plan",
]
