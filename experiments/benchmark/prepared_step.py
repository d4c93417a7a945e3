"""A training step made ready: compiled once, measured, and taken as often as needed.

It is the step of `experiments.train`, on rows of random tokens: same model, objective,
optimiser and donated state.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from experiments.benchmark.random_rows import random_batch
from experiments.benchmark.suite import Record
from experiments.benchmark.workload import Workload
from pallas_kernels.benchmark.timing import Budget, Run, take_turns
from unimod_jax.layout import UnifiedBatch
from unimod_jax.models import UnifiedModel
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh
from unimod_jax.training import Experiment, TrainState, training_step
from unimod_jax.training.optimizer import make_optimizer
from unimod_jax.training.state import make_state
from unimod_jax.training.step import Metrics, Step

_MOST_SAMPLES = 100


@dataclasses.dataclass
class PreparedStep:
    """A compiled training step, its state and its batch, on one device.

    Attributes:
      workload: what it is the step of.
      trace_seconds, compile_seconds: how long JAX and XLA took to make it.
      temporary_bytes, state_bytes: of the compiled program, by its memory analysis.
      compiled_flops: what XLA's own cost analysis counts, which sees each loop once.
      program: the compiled function (state, batch) -> (state, metrics).
      state: the current state; a step donates it.
      batch: the rows, on the device.
      metrics: of the last step; empty before the first.
    """

    workload: Workload
    trace_seconds: float
    compile_seconds: float
    temporary_bytes: int
    state_bytes: int
    compiled_flops: float
    program: Any
    state: TrainState
    batch: UnifiedBatch
    metrics: Metrics = dataclasses.field(default_factory=dict)

    def start(self) -> Any:
        """Queues one step; returns what is ready when all of it is done."""
        self.state, self.metrics = self.program(self.state, self.batch)
        return self.state, self.metrics

    @property
    def peak_bytes(self) -> int:
        """State, batch and temporaries at once."""
        return self.temporary_bytes + self.state_bytes


class Program(NamedTuple):
    """A compiled step, and the seconds that JAX and XLA took to make it."""

    program: Any
    trace_seconds: float
    compile_seconds: float


def compile_program(step: Step, state: TrainState, batch: UnifiedBatch) -> Program:
    """Traces and compiles a training step that donates its state.

    Args:
      step: from `training_step`.
      state, batch: arrays, or their shapes alone.
    """
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    traced = time.perf_counter()
    program = lowered.compile()
    return Program(program, traced - start, time.perf_counter() - traced)


def prepare_step(workload: Workload, seed: int = 0) -> PreparedStep:
    """Makes state and batch, and compiles the step, on one device.

    Args:
      workload: what to train.
      seed: of the rows.
    """
    spec = workload.spec
    rows = random_batch(
        workload.layouts, workload.rows, spec.vocabulary_size, spec.patch_size, seed
    )
    batch = jax.device_put(rows)
    model, optimizer = UnifiedModel(spec), make_optimizer(workload.training)
    mesh, rules = make_mesh(MeshConfig()), ShardingRules()
    state, _ = make_state(model, optimizer, batch, workload.training.seed, mesh, rules)
    step = training_step(model, workload.objective, optimizer, workload.task_weights)
    made = compile_program(step, state, batch)
    # Any: JAX types both as objects, and a backend may have neither.
    memory: Any = made.program.memory_analysis()
    cost: Any = made.program.cost_analysis() or {}
    return PreparedStep(
        workload,
        trace_seconds=made.trace_seconds,
        compile_seconds=made.compile_seconds,
        temporary_bytes=int(memory.temp_size_in_bytes),
        state_bytes=int(memory.argument_size_in_bytes),
        compiled_flops=float(cost.get("flops", 0.0)),
        program=made.program,
        state=state,
        batch=batch,
    )


def race(
    steps: Mapping[str, PreparedStep], *, seconds: float, fewest: int = 5
) -> dict[str, Record]:
    """Takes the steps in turns and describes each.

    Args:
      steps: name -> step; they share the machine, one runs at a time.
      seconds: about how long; compilation is over.
      fewest: samples of each, however long they take.

    Returns:
      name -> record: `step_seconds` (median), `samples`, FLOPs, tokens and bytes.
    """
    taken = take_turns(
        {name: Run(step.start, jax.block_until_ready) for name, step in steps.items()},
        repeats=_MOST_SAMPLES,
        sample_seconds=0.0,
        budget=Budget(seconds),
        fewest=fewest,
    )
    for samples in taken.values():
        if samples.failure is not None:
            raise samples.failure
    return {name: _record(step, taken[name].seconds) for name, step in steps.items()}


def race_experiments(
    experiments: Mapping[str, Experiment],
    say: Callable[[str], None],
    *,
    seconds: float,
    **labels: str,
) -> list[Record]:
    """Compiles the steps of experiments and races them.

    Args:
      experiments: contender -> experiment; all their states are held at once.
      say: prints a line of progress.
      seconds: as of `race`.
      **labels: what every record says beside its `contender`.
    """
    steps = {}
    for name, experiment in experiments.items():
        say(f"compiling {' '.join([*labels.values(), name])}")
        steps[name] = prepare_step(Workload.of(experiment))
    measured = race(steps, seconds=seconds)
    return [labels | {"contender": name} | record for name, record in measured.items()]


def _record(step: PreparedStep, seconds: list[float]) -> Record:
    workload = step.workload
    return {
        "step_seconds": statistics.median(seconds),
        "fastest_seconds": min(seconds),
        "samples": len(seconds),
        "flops": workload.flops,
        "flops_per_second": workload.flops / statistics.median(seconds),
        "compiled_flops": step.compiled_flops,
        "tokens": workload.num_tokens,
        "temporary_bytes": step.temporary_bytes,
        "state_bytes": step.state_bytes,
        "peak_bytes": step.peak_bytes,
        "trace_seconds": step.trace_seconds,
        "compile_seconds": step.compile_seconds,
    }
