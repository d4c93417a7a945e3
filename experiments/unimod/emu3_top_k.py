"""Emu3 with top-k over whole rows, as UniMoD describes it (2502.06474, section 4.1).

Tests: how much of a loss comes from looking ahead: later tokens push out earlier ones,
so the model trains on what it cannot do when it generates.
Run: python -m experiments.train unimod/emu3_top_k --tiny
Expect: the tiny form: loss 11.43 to 2.59 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("emu3", "unimod_top_k")
