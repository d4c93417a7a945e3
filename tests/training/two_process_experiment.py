"""The experiment of the tests with several processes: tiny, cut over eight devices."""

from pathlib import Path

from tests.training.tiny_experiment import tiny_experiment, with_mesh
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """Data are given on the command line."""
    tiny = tiny_experiment(Path("data"), steps=24, checkpoint_every=3)
    return with_mesh(tiny, data=2, fsdp=4)
