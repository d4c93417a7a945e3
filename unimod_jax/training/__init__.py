"""Training: state, step, loop, checkpoints, metrics, and the report of a run.

Reading order: `experiment` (what a run is), `optimizer`, `state`, `step`, `loop`, then
`run_directory`, `checkpoint`, `metric_writer`, `progress`; for runs that survive,
`processes` (with `roll_call` and `attendance`), `preemption`, `endings` and
`skipped_steps`; `time_breakdown` and `profile` say where the time went; `reduced_twin`
makes the tiny form of an experiment;
`sharded_step` is where the step becomes a program, and `prepared_step` has it compiled
and measured for whoever times it.
"""

from unimod_jax.training.endings import PeerLost, Preempted
from unimod_jax.training.experiment import (
    Assembly,
    Experiment,
    TrainingConfig,
)
from unimod_jax.training.loop import Trainer, make_trainer, train
from unimod_jax.training.processes import (
    ALONE,
    Processes,
    ProcessOptions,
    start_processes,
)
from unimod_jax.training.profile import ProfileSteps
from unimod_jax.training.reduced_twin import reduced_twin
from unimod_jax.training.run_directory import RunDirectory, RunError
from unimod_jax.training.starting_point import StartingPoint
from unimod_jax.training.state import TrainState
from unimod_jax.training.step import training_step

__all__ = [
    "ALONE",
    "Assembly",
    "Experiment",
    "PeerLost",
    "Preempted",
    "ProcessOptions",
    "Processes",
    "ProfileSteps",
    "RunDirectory",
    "RunError",
    "StartingPoint",
    "TrainState",
    "Trainer",
    "TrainingConfig",
    "make_trainer",
    "reduced_twin",
    "start_processes",
    "train",
    "training_step",
]
