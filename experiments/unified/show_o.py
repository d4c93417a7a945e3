"""Show-o at 512 px with untied towers and task routers: both papers at once.

Tests: whether towers and pruning get on: each modality has its parameters and its own
quota of tokens.
Run: python -m experiments.train unified/show_o --tiny
Expect: the tiny form: loss 12.20 to 2.45 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "mot_unimod")
