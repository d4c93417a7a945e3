"""Emu3 with top-k in training and a predictor of it after (2404.02258, section 3.5).

Tests: the second fix for causal rows: a small network learns beside the model what
top-k will choose.
Run: python -m experiments.train unimod/emu3_predictor --tiny
Expect: the tiny form: loss 11.43 to 2.59 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("emu3", "unimod_predictor")
