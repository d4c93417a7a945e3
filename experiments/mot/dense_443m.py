"""Chameleon 443M with one tower: the baseline of mot/ (2411.04996, section 3.2).

Tests: the dense model, with which the others are compared.
Run: python -m experiments.train mot/dense_443m --tiny
Expect: the tiny form: loss 6.38 to 1.36 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("chameleon_443m", "dense")
