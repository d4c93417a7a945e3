"""Training: state, step, loop, checkpoints, metrics, and the report of a run.

Reading order: `experiment` (what a run is), `optimizer`, `state`, `step`, `loop`, then
`run_directory`, `checkpoint`, `metric_writer`, `progress`; `reduced_twin` makes the
tiny form of an experiment.
"""

from unimod_jax.training.experiment import (
    Assembly,
    Experiment,
    TaskShares,
    TrainingConfig,
)
from unimod_jax.training.loop import Trainer, make_trainer, train
from unimod_jax.training.reduced_twin import reduced_twin
from unimod_jax.training.run_directory import RunDirectory, RunError
from unimod_jax.training.state import TrainState
from unimod_jax.training.step import training_step

__all__ = [
    "Assembly",
    "Experiment",
    "RunDirectory",
    "RunError",
    "TaskShares",
    "TrainState",
    "Trainer",
    "TrainingConfig",
    "make_trainer",
    "reduced_twin",
    "train",
    "training_step",
]
