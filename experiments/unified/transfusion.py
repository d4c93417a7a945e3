"""Transfusion 760M with untied towers and routed layers: both papers at once.

Tests: routing of patches that are denoised together: half of an image's patches skip a
layer.
Run: python -m experiments.train unified/transfusion --tiny
Expect: the tiny form: loss 13.55 to 2.48 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("transfusion_760m", "mot_unimod")
