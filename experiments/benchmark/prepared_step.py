"""A training step made ready: compiled once, measured, and taken as often as needed.

It is the step of `experiments.train`, on rows of random tokens: same model, objective,
optimiser and donated state.
"""

import dataclasses
import time
from typing import Any

import jax

from experiments.benchmark.random_rows import random_batch
from unimod_jax.layout import UnifiedBatch
from unimod_jax.models import UnifiedModel
from unimod_jax.models.accounting import training_flops
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh
from unimod_jax.training import Assembly, Experiment, TrainState, training_step
from unimod_jax.training.optimizer import make_optimizer
from unimod_jax.training.state import make_state


@dataclasses.dataclass
class PreparedStep:
    """A compiled training step, its state and its batch, on one device.

    Attributes:
      experiment: what it is the step of.
      flops: useful FLOPs of one step, as `models.accounting` counts them.
      trace_seconds, compile_seconds: how long JAX and XLA took to make it.
      temporary_bytes, state_bytes: of the compiled program, by its memory analysis.
      compiled_flops: what XLA's own cost analysis counts; 0 where it says nothing.
    """

    experiment: Experiment
    flops: int
    trace_seconds: float
    compile_seconds: float
    temporary_bytes: int
    state_bytes: int
    compiled_flops: float
    _compiled: Any
    _state: TrainState
    _batch: UnifiedBatch

    def take(self) -> float:
        """Takes one step to its end; returns its seconds."""
        start = time.perf_counter()
        self._state, metrics = self._compiled(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - start

    @property
    def peak_bytes(self) -> int:
        """State, batch and temporaries at once."""
        return self.temporary_bytes + self.state_bytes


def prepare_step(experiment: Experiment, seed: int = 0) -> PreparedStep:
    """Makes state and batch, and compiles the step, on one device.

    Args:
      experiment: its mesh is ignored.
      seed: of the rows.
    """
    assembly = Assembly(dataclasses.replace(experiment, mesh=MeshConfig()))
    spec, layouts, rows = assembly.spec, assembly.layouts, assembly.rows
    host = random_batch(layouts, rows, spec.vocabulary_size, spec.patch_size, seed)
    batch = jax.device_put(host)
    model, optimizer = UnifiedModel(spec), make_optimizer(experiment.training)
    mesh, rules = make_mesh(MeshConfig()), ShardingRules()
    state, _ = make_state(
        model, optimizer, batch, experiment.training.seed, mesh, rules
    )
    step = training_step(model, experiment.objective, optimizer)
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis() or {}
    return PreparedStep(
        experiment=experiment,
        flops=training_flops(spec, layouts, rows),
        trace_seconds=traced - start,
        compile_seconds=done - traced,
        temporary_bytes=int(memory.temp_size_in_bytes),
        state_bytes=int(memory.argument_size_in_bytes),
        compiled_flops=float(cost.get("flops", 0.0)),
        _compiled=compiled,
        _state=state,
        _batch=batch,
    )
