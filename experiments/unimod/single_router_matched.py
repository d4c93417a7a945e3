"""Show-o with one router and UniMoD's own capacities: a control of this project.

Tests: what routers of their own are worth to tasks at equal FLOPs, which the paper's
table does not separate from harder pruning.
Run: python -m experiments.train unimod/single_router_matched --tiny
Expect: exactly the FLOPs of unimod/show_o. The tiny form: loss 12.60 to 2.48 in 200
steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "single_router_matched")
