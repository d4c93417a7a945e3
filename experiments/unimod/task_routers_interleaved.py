"""Show-o with task routers in every other layer (2502.06474, table 5).

Tests: what choosing the layers is worth: UniMoD's ratios where Mixture-of-Depths puts
them.
Run: python -m experiments.train unimod/task_routers_interleaved --tiny
Expect: 43.3 of the dense model's 51.1 TFLOPs in the paper, as much as unimod/show_o.
The tiny form: loss 12.19 to 2.49 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "task_routers_interleaved")
