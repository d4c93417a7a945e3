"""Chameleon 443M with MoT's towers and 4 experts in that of text (2411.04996).

Tests: whether towers and experts add up. Text is chosen by experts that look ahead, so
the model cannot generate.
Run: python -m experiments.train mot/hybrid_443m --tiny
Expect: the tiny form: loss 5.62 to 1.35 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("chameleon_443m", "hybrid")
