"""Chameleon 7B with untied towers and routed layers: both papers at once, at 7B.

Tests: whether both savings add up at the size that MoT's headline is about.
Run: python -m experiments.compile_check unified/chameleon_7b --topology v6e:16x16
Expect: it fits; `--tiny` trains as `unified/chameleon --tiny` does.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("chameleon_7b", "mot_unimod")
