"""Show-o that leaves after the first half (2502.06474, table 3).

Tests: how redundant the late layers are: generation and understanding skip the second
half.
Run: python -m experiments.train unimod/early_exit --tiny
Expect: half of the dense model's FLOPs, as in the paper. The tiny form: loss 12.21 to
2.44 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "early_exit")
