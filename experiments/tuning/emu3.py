"""The released Emu3 with UniMoD's task routers.

Tests: routing of a trained causal model: the last 16 layers keep 0.2 of the tokens of
both tasks (2502.06474, section 5.1), with a threshold that decoding can follow.
Run: python -m experiments.train tuning/emu3 --start-from runs/emu3
Expect: 40% fewer training FLOPs, linear maps counted. Not run here: the weights cannot
be downloaded.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("emu3", "unimod")
