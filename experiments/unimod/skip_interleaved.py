"""Show-o with every other layer left out (2502.06474, table 3).

Tests: how redundant layers are for each task: generation and understanding skip half of
them.
Run: python -m experiments.train unimod/skip_interleaved --tiny
Expect: half of the dense model's FLOPs, as in the paper. The tiny form: loss 12.07 to
2.44 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "skip_interleaved")
