"""Emu3 with top-k in training and a trained threshold after (2404.02258, section 3.5).

Tests: the first fix for causal rows: scores learn to pass a threshold where top-k
chose.
Run: python -m experiments.train unimod/emu3_trained_threshold --tiny
Expect: the tiny form: loss 11.43 to 2.59 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("emu3", "unimod_trained_threshold")
