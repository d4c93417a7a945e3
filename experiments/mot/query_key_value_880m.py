"""Chameleon 880M with feed-forward, queries, keys and values untied (2411.04996).

Tests: the second step from the dense model to MoT; output projection and norms stay
shared.
Run: python -m experiments.train mot/query_key_value_880m --tiny
Expect: the tiny form: loss 5.50 to 1.33 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("chameleon_880m", "mot_ffn_qkv")
