"""Show-o with UniMoD's capacities filled at random: a control of this project.

Tests: what a learned choice of tokens is worth.
Run: python -m experiments.train unimod/random_routing --tiny
Expect: the tiny form: loss 12.59 to 2.47 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "random_routing")
