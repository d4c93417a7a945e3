"""The training step as it is compiled: for devices that run it, or that are described.

`jit_step` is the one place where the step becomes a program, so what
`experiments.compile_check` compiles for chips that are not there, from shapes alone, is
what `training.loop` runs.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

from unimod_jax.layout import UnifiedBatch
from unimod_jax.models import UnifiedModel
from unimod_jax.models.accounting import abstract_rows
from unimod_jax.parallel import (
    ShardingRules,
    batch_sharding,
    on_mesh,
    tree_sharding,
)
from unimod_jax.training.accumulation import check_parts
from unimod_jax.training.experiment import Assembly, Experiment
from unimod_jax.training.optimizer import make_optimizer
from unimod_jax.training.state import TrainState, fresh_state
from unimod_jax.training.step import training_step


def jit_step(
    model: UnifiedModel,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    state_shardings: TrainState,
    rows: NamedSharding,
) -> Any:
    """The jitted step: donates its state, keeps every array where it was.

    Args:
      model, optimizer: of the experiment.
      experiment: its objective, and the parts that a step's rows are taken in.
      state_shardings: of every array of the state.
      rows: of every array of a batch.

    Returns:
      (state, batch) -> (next state, metrics), to be called or lowered under
      `on_mesh` with the mesh of the shardings.
    """
    training = experiment.training
    step = training_step(
        model,
        experiment.objective,
        optimizer,
        {task.name: task.loss_weight for task in experiment.tasks},
        training.accumulation_steps,
        training.skip_above,
    )
    return jax.jit(
        step,
        in_shardings=(state_shardings, rows),
        out_shardings=(state_shardings, None),
        donate_argnums=0,
    )


def abstract_state(assembly: Assembly) -> TrainState:
    """The shapes of a fresh state, parameters in boxes with their logical axes."""
    model = UnifiedModel(assembly.spec)
    training = assembly.experiment.training
    optimizer = make_optimizer(training)

    def make(batch: UnifiedBatch) -> TrainState:
        return fresh_state(model, optimizer, batch, training.seed)

    # One row of each task fixes all shapes; experts ask for a whole group of rows.
    count = assembly.spec.towers.rows_per_expert_group
    return jax.eval_shape(
        make, abstract_batch(assembly, dict.fromkeys(assembly.rows, count))
    )


def abstract_batch(assembly: Assembly, rows: Mapping[str, int]) -> UnifiedBatch:
    """A batch of so many rows of each task, as shapes: no data, no tokenizer."""
    return {
        task: abstract_rows(assembly.spec, layout, rows[task])
        for task, layout in assembly.layouts.items()
    }


def lower_step(
    assembly: Assembly, mesh: Mesh, state: TrainState, batch: UnifiedBatch
) -> jax.stages.Lowered:
    """The step of an experiment on a mesh, lowered; not a single array is needed.

    Args:
      assembly: what follows from the experiment.
      mesh: of devices that may exist only as a description.
      state, batch: arrays on it, or their shapes from `placed_state`, `placed_batch`.
    """
    experiment = assembly.experiment
    rules = experiment.sharding
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    model = UnifiedModel(assembly.spec)
    optimizer = make_optimizer(experiment.training)
    with on_mesh(mesh, rules):
        rows = batch_sharding(mesh, rules)
        step = jit_step(model, experiment, optimizer, shardings, rows)
        return step.lower(state, batch)


def placed_state(boxed: TrainState, mesh: Mesh, rules: ShardingRules) -> TrainState:
    """The shapes of a state without boxes, each with its sharding on the mesh.

    Args:
      boxed: from `abstract_state`.
      mesh, rules: where each array goes.
    """
    shardings = tree_sharding(boxed, mesh, rules)
    return jax.tree.map(_placed, nn.unbox(boxed), shardings)


def check_rows(assembly: Assembly, mesh: Mesh) -> None:
    """Refuses a step whose rows are not alike on all devices and in all parts.

    Raises:
      ValueError: for a task whose rows do not divide, saying which.
    """
    experiment = assembly.experiment
    parts = experiment.training.accumulation_steps
    check_parts(assembly.rows, parts, row_shards(mesh, experiment.sharding))


def placed_batch(assembly: Assembly, mesh: Mesh) -> UnifiedBatch:
    """The shapes of a batch, each with its sharding on the mesh.

    Raises:
      ValueError: for rows that do not divide over devices and parts.
    """
    check_rows(assembly, mesh)
    rows = batch_sharding(mesh, assembly.experiment.sharding)
    batch = abstract_batch(assembly, assembly.rows)
    return jax.tree.map(lambda leaf: _placed(leaf, rows), batch)


def bytes_on_one_device(placed: Any) -> int:
    """Bytes that one device holds of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(placed)
    )


def row_shards(mesh: Mesh, rules: ShardingRules) -> int:
    """Over how many devices the rows of a task are cut."""
    cut = rules.spec(("batch",))[0]
    names = (cut,) if isinstance(cut, str) else cut or ()
    return math.prod(mesh.shape[name] for name in names)


def _placed(leaf: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
