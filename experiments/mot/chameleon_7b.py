"""Chameleon 7B with untied towers (2411.04996, section 3.2).

Tests: MoT at its largest: one tower per modality, global attention over interleaved
rows of text and image codes.
Run: python -m experiments.train mot/chameleon_7b --tiny
Expect: the dense model's quality for 55.8% of its FLOPs, as the paper reports. The tiny
form: loss 5.67 to 1.35 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("chameleon_7b", "mot")
