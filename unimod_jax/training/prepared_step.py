"""A training step made ready: compiled once, measured, and taken as often as needed.

It is the step of `training.loop`, by `sharded_step.lower_step`: what a benchmark times,
what a compile check asks the compiler about, and what a dense twin is compared by.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from pallas_kernels.benchmark.timing import Budget, Run, seconds_in_turns
from unimod_jax.layout import UnifiedBatch
from unimod_jax.models import UnifiedModel
from unimod_jax.parallel import batch_sharding, on_mesh
from unimod_jax.training.experiment import Assembly
from unimod_jax.training.optimizer import make_optimizer
from unimod_jax.training.sharded_step import check_rows, lower_step
from unimod_jax.training.state import TrainState, make_state
from unimod_jax.training.step import Metrics

_MOST_SAMPLES = 200


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled training step and what making it took.

    Attributes:
      program: (state, batch) -> (next state, metrics); donates the state.
      trace_seconds: from Python to StableHLO.
      compile_seconds: from there to a program.
      argument_bytes: of one device's state and batch.
      temporary_bytes: of one device, for what is computed on the way and the code.
      needed_bytes: of one device, all told: also what it returns beside the state.
    """

    program: Any
    trace_seconds: float
    compile_seconds: float
    argument_bytes: int
    temporary_bytes: int
    needed_bytes: int

    @property
    def seconds(self) -> float:
        """All of the making."""
        return self.trace_seconds + self.compile_seconds

    @property
    def compiled_flops(self) -> float:
        """What XLA's own cost analysis counts, which sees each loop once."""
        return float((self.program.cost_analysis() or {}).get("flops", 0.0))


@dataclasses.dataclass
class PreparedStep:
    """A compiled step with its state and its batch, on their devices.

    Attributes:
      assembly: of the experiment that it is the step of.
      compiled: the step.
      state: the current state; a step donates it.
      batch: the rows, the same for every step.
      metrics: of the last step; empty before the first.
    """

    assembly: Assembly
    compiled: CompiledStep
    state: TrainState
    batch: UnifiedBatch
    metrics: Metrics = dataclasses.field(default_factory=dict)

    def start(self) -> Any:
        """Queues one step; returns what is ready when all of it is done."""
        self.state, self.metrics = self.compiled.program(self.state, self.batch)
        return self.state, self.metrics


def compile_step(
    assembly: Assembly,
    mesh: Mesh,
    state: TrainState,
    batch: UnifiedBatch,
    compiler_options: dict[str, Any] | None = None,
) -> CompiledStep:
    """Traces and compiles the training step; nothing runs.

    Args:
      assembly, mesh, state, batch: as of `lower_step`.
      compiler_options: of XLA.

    Raises:
      jax.errors.JaxRuntimeError: if the compiler refuses the program.
    """
    start = time.perf_counter()
    lowered = lower_step(assembly, mesh, state, batch)
    traced = time.perf_counter()
    program = lowered.compile(compiler_options=compiler_options)
    end = time.perf_counter()
    memory: Any = program.memory_analysis()  # Any: JAX types it as an object.
    temporary = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    returned = memory.output_size_in_bytes - memory.alias_size_in_bytes
    arguments = memory.argument_size_in_bytes
    return CompiledStep(
        program,
        trace_seconds=traced - start,
        compile_seconds=end - traced,
        argument_bytes=int(arguments),
        temporary_bytes=int(temporary),
        needed_bytes=int(arguments + returned + temporary),
    )


def prepare_step(assembly: Assembly, mesh: Mesh, rows: UnifiedBatch) -> PreparedStep:
    """Makes a fresh state on a mesh, and compiles the step.

    Args:
      assembly: what follows from the experiment.
      mesh: of devices of this process.
      rows: a host batch.

    Raises:
      ValueError: for rows that do not divide over devices and parts.
    """
    check_rows(assembly, mesh)
    training, rules = assembly.experiment.training, assembly.experiment.sharding
    model, optimizer = UnifiedModel(assembly.spec), make_optimizer(training)
    with on_mesh(mesh, rules):
        state, _ = make_state(model, optimizer, rows, training.seed, mesh, rules)
    batch = jax.device_put(rows, batch_sharding(mesh, rules))
    compiled = compile_step(assembly, mesh, state, batch)
    return PreparedStep(assembly, compiled, state, batch)


def time_steps(
    steps: Mapping[str, PreparedStep], *, seconds: float, fewest: int
) -> dict[str, list[float]]:
    """Takes steps in turns; they share the machine, and one runs at a time.

    Args:
      steps: name -> step; their states move on.
      seconds: about how long.
      fewest: samples of each, however long they take.

    Returns:
      Name -> seconds of each step, without those that warm up.
    """
    return seconds_in_turns(
        {name: Run(step.start, jax.block_until_ready) for name, step in steps.items()},
        repeats=_MOST_SAMPLES,
        budget=Budget(seconds),
        fewest=fewest,
    )
