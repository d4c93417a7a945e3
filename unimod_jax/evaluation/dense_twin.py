"""A run's training step beside that of its dense twin: FLOPs, parameters and seconds.

The twin has the same sizes, objective, batch and optimiser, but one tower and no
routing. Both steps are compiled here and taken in turn, so that whatever else the
machine does slows both alike; the medians are compared.
"""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np

from unimod_jax.data import Record, TextTokenizer, first_rows
from unimod_jax.evaluation.trained_run import TrainedRun
from unimod_jax.layout import UnifiedBatch
from unimod_jax.models.accounting import count_parameters, training_flops
from unimod_jax.parallel import MeshConfig
from unimod_jax.training import Assembly, Experiment, Trainer, make_trainer

_WARM_UP_STEPS = 2
_MOST_STEPS = 200


@dataclasses.dataclass(frozen=True)
class DenseTwinComparison:
    """One training step of a model and of its dense twin.

    Attributes:
      flops, dense_flops: of one step, counted by `models.accounting`.
      parameters, dense_parameters: how many.
      seconds, dense_seconds: median of one step on this machine.
      steps: timed steps of each.
    """

    flops: int
    dense_flops: int
    parameters: int
    dense_parameters: int
    seconds: float
    dense_seconds: float
    steps: int

    @property
    def flops_ratio(self) -> float:
        """This model's FLOPs over the twin's."""
        return self.flops / self.dense_flops

    @property
    def step_time_ratio(self) -> float:
        """This model's step time over the twin's."""
        return self.seconds / self.dense_seconds

    @property
    def realised_saving(self) -> float | None:
        """The share of the FLOPs saved that is also saved as time."""
        return realised_saving(self.flops_ratio, self.step_time_ratio)


def realised_saving(flops_ratio: float, step_time_ratio: float) -> float | None:
    """(1 - step_time_ratio) / (1 - flops_ratio); None where no FLOPs are saved."""
    if flops_ratio >= 1.0:
        return None
    return (1.0 - step_time_ratio) / (1.0 - flops_ratio)


def compare_with_dense_twin(
    trained: TrainedRun,
    records: Sequence[Record],
    *,
    seconds: float = 25.0,
    fewest_steps: int = 9,
) -> DenseTwinComparison:
    """Times both training steps on one device, from fresh states.

    Every shape is static, so how far a model is trained does not change its step time.

    Args:
      trained: the run.
      records: of its train split; both models train on the same rows of them.
      seconds: about how long to take steps; compilation comes on top.
      fewest_steps: timed steps of each, however long they take.
    """
    own = dataclasses.replace(trained.experiment, mesh=MeshConfig())
    experiments = (own, own.dense_twin())
    sides = [_Side.make(e, records, trained.tokenizer) for e in experiments]
    for side in sides * _WARM_UP_STEPS:
        side.timed_step()
    taken: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(taken[0]) < fewest_steps or (
        time.perf_counter() < end and len(taken[0]) < _MOST_STEPS
    ):
        for side, times in zip(sides, taken, strict=True):
            times.append(side.timed_step())
    return DenseTwinComparison(
        *(_step_flops(side.trainer.assembly) for side in sides),
        *(count_parameters(side.trainer.state.params) for side in sides),
        *(float(np.median(times)) for times in taken),
        steps=len(taken[0]),
    )


@dataclasses.dataclass
class _Side:
    """One of the two models: a trainer and the rows it trains on."""

    trainer: Trainer
    batch: UnifiedBatch

    @classmethod
    def make(
        cls, experiment: Experiment, records: Sequence[Record], tokenizer: TextTokenizer
    ) -> "_Side":
        """Makes the state; the step compiles when it is first taken."""
        assembly = Assembly(experiment)
        batch = _rows(assembly, records, tokenizer)
        return cls(make_trainer(assembly, iter(()), batch), batch)

    def timed_step(self) -> float:
        """Takes one step to its end; the state it donates is replaced."""
        start = time.perf_counter()
        self.trainer.state, metrics = self.trainer.step(self.trainer.state, self.batch)
        jax.block_until_ready((self.trainer.state, metrics))
        return time.perf_counter() - start


def _rows(
    assembly: Assembly, records: Sequence[Record], tokenizer: TextTokenizer
) -> UnifiedBatch:
    """A batch of the first records, laid out for this model's streams."""
    experiment = assembly.experiment
    return first_rows(
        experiment.data, assembly.layouts, assembly.rows, records, tokenizer
    )


def _step_flops(assembly: Assembly) -> int:
    return training_flops(assembly.spec, assembly.layouts, assembly.rows)
