"""Transfusion 760M with untied towers (2411.04996, section 3.4).

Tests: towers where the modalities differ in their objectives too: next tokens and
denoised patches.
Run: python -m experiments.train mot/transfusion_760m --tiny
Expect: better images than the dense 1.4B model, as the paper reports. The tiny form:
loss 13.54 to 2.33 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("transfusion_760m", "mot")
