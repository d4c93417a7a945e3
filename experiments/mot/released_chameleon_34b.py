"""The released Chameleon 34B with towers that start as copies of one another.

Tests: how a dense checkpoint becomes a MoT: towers begin equal, so the first step
computes what the dense model does, and part from then on.
Run: python -m experiments.train mot/released_chameleon_34b --tiny
Expect: the tiny form: loss 5.35 to 1.36 in 200 steps.
"""

from experiments.published import published
from unimod_jax.models import MixtureOfTransformers
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published(
        "chameleon_34b_released",
        "mot",
        mot=MixtureOfTransformers(initial_towers="copies"),
    )
