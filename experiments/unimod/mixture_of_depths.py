"""Show-o with plain Mixture-of-Depths (2502.06474, table 5; 2404.02258).

Tests: one router for all tasks in every other layer, all tasks pruned like
understanding.
Run: python -m experiments.train unimod/mixture_of_depths --tiny
Expect: 40.8 of the dense model's 51.1 TFLOPs in the paper. The tiny form: loss 11.80 to
2.48 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "basic_mod")
