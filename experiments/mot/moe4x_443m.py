"""Chameleon 443M with 4 experts of expert choice (2411.04996, section 3.2.1).

Tests: whether modality is what should choose parameters: here a router learns to. It
leaks the future inside a row, so its loss is a bound and it cannot generate.
Run: python -m experiments.train mot/moe4x_443m --tiny
Expect: the tiny form: loss 5.75 to 1.38 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("chameleon_443m", "moe4x")
