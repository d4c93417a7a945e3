"""A run's training step beside that of its dense twin: FLOPs, parameters and seconds.

The twin has the same sizes, objective, batch and optimiser, but one tower and no
routing. Both steps are compiled here and taken in turn, so that whatever else the
machine does slows both alike; the medians are compared.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unimod_jax.data import Record, TextTokenizer, first_rows
from unimod_jax.evaluation.trained_run import TrainedRun
from unimod_jax.models.accounting import count_parameters
from unimod_jax.parallel import MeshConfig, make_mesh
from unimod_jax.training import Assembly
from unimod_jax.training.prepared_step import PreparedStep, prepare_step, time_steps


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
    routed, dense = (
        _prepared(Assembly(experiment), records, trained.tokenizer)
        for experiment in (own, own.dense_twin())
    )
    taken = time_steps(
        {"routed": routed, "dense": dense}, seconds=seconds, fewest=fewest_steps
    )
    return DenseTwinComparison(
        *(step.assembly.flops_per_step for step in (routed, dense)),
        *(count_parameters(step.state.params) for step in (routed, dense)),
        *(float(np.median(taken[name])) for name in ("routed", "dense")),
        steps=len(taken["routed"]),
    )


def _prepared(
    assembly: Assembly, records: Sequence[Record], tokenizer: TextTokenizer
) -> PreparedStep:
    """The step on the first records, laid out for this model's streams."""
    experiment = assembly.experiment
    rows = first_rows(
        experiment.data, assembly.layouts, assembly.rows, records, tokenizer
    )
    return prepare_step(assembly, make_mesh(experiment.mesh), rows)
