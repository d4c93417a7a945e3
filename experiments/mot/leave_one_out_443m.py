"""Chameleon 443M with a tower for text, one for the rest (2411.04996, figure 15).

Tests: what separating text alone is worth; image and speech share a tower.
Run: python -m experiments.train mot/leave_one_out_443m --tiny
Expect: the tiny form: loss 5.65 to 1.38 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("chameleon_443m_speech", "leave_one_out_text")
