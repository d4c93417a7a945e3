"""Chameleon 880M with the feed-forward alone untied (2411.04996, component ablation).

Tests: the first step from the dense model to MoT; attention and norms stay shared.
Run: python -m experiments.train mot/feed_forward_only_880m --tiny
Expect: the tiny form: loss 6.02 to 1.36 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("chameleon_880m", "mot_ffn_only")
