"""Chameleon 443M with only the first and the last two layers untied.

Tests: whether modalities need parameters of their own only where they enter and leave,
as in Uni-X; the layers between are shared, at a sixth of MoT's extra parameters.
Run: python -m experiments.train mot/first_and_last_layers_443m --tiny
Expect: the tiny form: loss 6.17 to 1.34 in 200 steps.
"""

from experiments.published import published
from unimod_jax.models import MixtureOfTransformers
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published(
        "chameleon_443m",
        "mot",
        mot=MixtureOfTransformers(untied_layers=(0, 1, 22, 23)),
    )
