"""The released Show-o with UniMoD's task routers, as the paper converts it.

Tests: what a trained model loses, and what it saves, when its last 12 layers are routed
(2502.06474, section 5.1); everything is kept at first glance, for scores start at zero.
Run: python -m experiments.train tuning/show_o --start-from runs/show_o
Expect: quality near the dense model's after tuning, with 15% fewer training FLOPs. Not
run here: the weights cannot be downloaded.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "unimod")
