"""Show-o at 512 px without routing: the baseline of unimod/ (2502.06474, table 5).

Tests: the dense model, with which the others are compared.
Run: python -m experiments.train unimod/dense_show_o --tiny
Expect: 51.1 TFLOPs in the paper. The tiny form: loss 12.20 to 2.48 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "dense")
