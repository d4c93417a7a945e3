"""The loss on fixed rows of held-out records: a number that two runs can compare.

The rows are the first of the test split, in order. What an objective hides or noises is
drawn once, for all of them, from a seed of its own. Then they go through the model in
parts of as many rows as a training step takes at once, and what the parts lose is added
up before it is divided. So the loss depends on the parameters alone: not on the batch
size, the mesh, the number of processes (to rounding), nor on when it is asked for.
Nothing is dropped out, and routers choose by the thresholds that they have.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.data import (
    DataConfig,
    DataError,
    ImageCodec,
    Record,
    SplitRecords,
    TextTokenizer,
    first_rows,
    open_split,
)
from unimod_jax.layout import TokenGroup, UnifiedBatch
from unimod_jax.models import UnifiedModel
from unimod_jax.objectives import LossSum, LossSums, Objective, task_loss
from unimod_jax.parallel import batch_sharding, make_mesh, on_mesh
from unimod_jax.training.experiment import Assembly
from unimod_jax.training.learned_codec import coded

PREFIX = "held_out/"
"""Of the names of these losses among the metrics."""

RECORDS_PER_ROW = 8
"""Rows of documents hold several records each; more are never in the way."""

_SEED = 0
"""Of what is hidden or noised; the same for all runs, whatever their own seed."""

_OF_NOTHING = {"modality_BT": -1, "target_modality_BT": -1, "position_BT": -1}
_OF_NOTHING["patch_index_BT"] = -1
"""What the slots of a row hold that has no tokens; all other arrays are zero."""

type Part = tuple[TokenGroup, np.ndarray | None]
"""Rows as the model sees them, and the noise that was added to their patches."""


def held_out_rows(
    assembly: Assembly, records: Sequence[Record], tokenizer: TextTokenizer, count: int
) -> UnifiedBatch:
    """So many rows of every task, of the first records, on the host."""
    rows = dict.fromkeys(assembly.layouts, count)
    data = assembly.experiment.data
    return first_rows(data, assembly.layouts, rows, records, tokenizer)


class HeldOutLoss:
    """Measures parameters on fixed rows; all processes of a run call it together."""

    def __init__(
        self,
        assembly: Assembly,
        model: UnifiedModel,
        records: Sequence[Record],
        tokenizer: TextTokenizer,
    ) -> None:
        """Makes the rows; what measures them is compiled when it is first called.

        Args:
          assembly: its experiment says how many rows, and on which mesh.
          model: of the assembly.
          records: of the test split, with codes where the data has learned ones. No
            record counts twice: there are as many rows as records at most.
          tokenizer: of the run.
        """
        experiment = assembly.experiment
        training = experiment.training
        self._objective = experiment.objective
        self._weights = assembly.task_weights
        self._mesh, self._rules = make_mesh(experiment.mesh), experiment.sharding
        self._sharding = batch_sharding(self._mesh, self._rules)
        self._sums = jax.jit(_sums_of_part(model, self._objective))
        count = min(training.held_out_rows, len(records))
        rows = held_out_rows(assembly, records, tokenizer, count)
        seen, noise = _corrupted(self._objective, rows)
        self._parts = {
            task: _in_parts(
                (group, noise.get(task)),
                assembly.rows[task] // training.accumulation_steps,
            )
            for task, group in seen.items()
        }

    def __call__(self, variables: Mapping[str, Any]) -> dict[str, float]:
        """The losses of parameters and router thresholds, on the mesh.

        Args:
          variables: Flax collections, such as `TrainState.variables()`.

        Returns:
          "loss", the weighted sum that training minimises; "<task>/loss" and
          "<task>/<modality>_loss", each a mean over all targets of all rows.
        """
        losses, values = {}, {}
        with on_mesh(self._mesh, self._rules):
            sums = {task: self._of_task(variables, task) for task in self._parts}
        for task, of_task in sums.items():
            losses[task], means = task_loss(self._objective, of_task)
            values[f"{task}/loss"] = float(losses[task])
            values |= {f"{task}/{name}": float(mean) for name, mean in means.items()}
        total = sum(self._weights[task] * losses[task] for task in losses)
        return {"loss": float(total)} | values

    def _of_task(self, variables: Mapping[str, Any], task: str) -> LossSums:
        """All parts of a task, added up in double precision."""
        parts = [
            jax.device_get(self._sums(variables, *self._on_devices(part)))
            for part in self._parts[task]
        ]
        return {
            name: LossSum(
                *(
                    jnp.asarray(np.sum(np.asarray(values, np.float64)), jnp.float32)
                    for values in (
                        [part[name].total for part in parts],
                        [part[name].count for part in parts],
                    )
                )
            )
            for name in parts[0]
        }

    def _on_devices(self, part: Part) -> Any:
        """Each device gets its rows of what every process holds in whole."""
        return jax.tree.map(
            lambda array: jax.make_array_from_callback(
                array.shape, self._sharding, array.__getitem__
            ),
            part,
        )


def open_held_out(
    assembly: Assembly,
    model: UnifiedModel,
    tokenizer: TextTokenizer,
    codec: ImageCodec,
) -> HeldOutLoss | None:
    """The held-out loss of a run that trains; None if it never asks for it.

    Raises:
      DataError: if the data set has no such split.
    """
    experiment = assembly.experiment
    if not experiment.training.held_out_every:
        return None
    records = held_out_records(experiment.data, experiment.training.held_out_rows)
    coded_records = coded(records, codec, experiment.data)
    return HeldOutLoss(assembly, model, coded_records, tokenizer)


def held_out_records(data: DataConfig, rows: int) -> Sequence[Record]:
    """The first records of the test split, as many as so many rows may take."""
    try:
        records: SplitRecords = open_split(data, data.test_split)
    except DataError as error:
        raise DataError(
            f"the held-out loss cannot be measured: {error.args[0].rstrip('.')}, or "
            "set training.held_out_every to 0."
        ) from error
    return records[: rows * RECORDS_PER_ROW]


def _corrupted(
    objective: Objective, rows: UnifiedBatch
) -> tuple[UnifiedBatch, dict[str, np.ndarray]]:
    """What the model sees of all rows, and the noise, back on the host."""
    corrupt = jax.jit(objective.corrupt)
    return jax.device_get(corrupt(rows, jax.random.key(_SEED)))


def _sums_of_part(model: UnifiedModel, objective: Objective) -> Any:
    """(variables, rows, noise) -> the sums of their losses."""

    def sums(variables: dict, group: TokenGroup, noise: jax.Array | None) -> LossSums:
        outputs, _ = model.apply(variables, {group.layout.task: group})
        return objective.loss_sums(group, outputs[group.layout.task], noise)

    return sums


def _in_parts(rows: Part, size: int) -> list[Part]:
    """Consecutive rows, so many at a time; the last part is filled with empty ones."""
    count = rows[0].num_rows
    empty = _empty_row(rows)
    filled = jax.tree.map(
        lambda array, row: np.concatenate([array, *[row] * (-count % size)]),
        rows,
        empty,
    )
    take = functools.partial(_slice_of, filled)
    return [take(start, start + size) for start in range(0, count, size)]


def _slice_of(rows: Part, start: int, stop: int) -> Part:
    return jax.tree.map(lambda array: array[start:stop], rows)


def _empty_row(rows: Part) -> Part:
    """A row that has no tokens, and so no targets."""
    group, noise = jax.tree.map(lambda array: np.zeros_like(array[:1]), rows)
    for name, stream in group.streams.items():
        nothing = {
            field: np.full_like(getattr(stream, field), value)
            for field, value in _OF_NOTHING.items()
        }
        group = group.with_stream(name, **nothing)
    return group, noise
