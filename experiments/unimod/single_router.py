"""Show-o with one router in UniMoD's layers (2502.06474, table 5).

Tests: the row "without task-aware router", whose FLOPs say that generation is pruned as
hard as understanding.
Run: python -m experiments.train unimod/single_router --tiny
Expect: 40.8 of the dense model's 51.1 TFLOPs in the paper, less than unimod/show_o. The
tiny form: loss 12.74 to 2.48 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "single_router")
