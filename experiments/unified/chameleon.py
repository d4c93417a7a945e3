"""Chameleon 443M with untied towers and routed layers: both papers at once.

Tests: routing of interleaved rows, where one layer keeps half the tokens of each
modality.
Run: python -m experiments.train unified/chameleon --tiny
Expect: the tiny form: loss 5.82 to 1.34 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("chameleon_443m", "mot_unimod")
