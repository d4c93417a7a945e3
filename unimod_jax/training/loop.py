"""The training loop: records in, checkpoints and metrics out, resumable at any step."""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from unimod_jax.data import Record, TextTokenizer, open_split, prepare, training_batches
from unimod_jax.layout import UnifiedBatch
from unimod_jax.models import UnifiedModel
from unimod_jax.parallel import batch_sharding, make_mesh, on_mesh
from unimod_jax.training.checkpoint import RunCheckpoints
from unimod_jax.training.experiment import Assembly, Experiment
from unimod_jax.training.input_wait import EndWatcher, InputWait
from unimod_jax.training.metric_writer import MetricWriter
from unimod_jax.training.optimizer import make_optimizer
from unimod_jax.training.progress import Progress
from unimod_jax.training.run_directory import RunDirectory, RunError
from unimod_jax.training.state import TrainState, make_state
from unimod_jax.training.step import Metrics, Step, training_step

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Trainer:
    """Everything a run holds while it trains.

    Attributes:
      assembly: what follows from the experiment.
      model: the model.
      step: jitted, donates its state.
      state: the current state.
      batches: the data iterator, at the next batch.
    """

    assembly: Assembly
    model: UnifiedModel
    step: Step
    state: TrainState
    batches: Iterator[UnifiedBatch]


def open_tokenizer(
    run: RunDirectory, assembly: Assembly, records: Sequence[Record]
) -> TextTokenizer:
    """The run's tokenizer: as saved, or trained on the captions and then saved."""
    if run.tokenizer.exists():
        return TextTokenizer.load(run.tokenizer, assembly.vocabulary)
    captions = [caption for record in records for caption in record.captions]
    tokenizer = TextTokenizer.train(captions, assembly.vocabulary)
    tokenizer.save(run.tokenizer)
    return tokenizer


def make_trainer(
    assembly: Assembly, batches: Iterator[UnifiedBatch], example: UnifiedBatch
) -> Trainer:
    """Model, optimiser, state and jitted step on the experiment's mesh.

    Args:
      assembly: what follows from the experiment.
      batches: host batches.
      example: one of them, for shapes only.
    """
    experiment = assembly.experiment
    mesh, rules = make_mesh(experiment.mesh), experiment.sharding
    model = UnifiedModel(assembly.spec)
    optimizer = make_optimizer(experiment.training)
    with on_mesh(mesh, rules):
        state, shardings = make_state(
            model, optimizer, example, experiment.training.seed, mesh, rules
        )
    rows = batch_sharding(mesh, rules)
    compiled = jax.jit(
        training_step(model, experiment.objective, optimizer),
        in_shardings=(shardings, rows),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )

    def step(state: TrainState, batch: UnifiedBatch) -> tuple[TrainState, Metrics]:
        with on_mesh(mesh, rules):
            return compiled(state, _on_devices(batch, rows))

    return Trainer(assembly, model, step, state, batches)


def _on_devices(batch: UnifiedBatch, sharding: jax.sharding.Sharding) -> UnifiedBatch:
    """Puts this process's rows on its devices."""
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), batch
    )


def train(experiment: Experiment, run_dir: Path) -> RunDirectory:
    """Trains an experiment in a run directory, resuming what is there.

    Args:
      experiment: what to train.
      run_dir: made if it does not exist.

    Returns:
      The run directory.

    Raises:
      RunError: for a directory of another configuration, unreadable checkpoints, or a
        loss that is not finite.
      DataError: for data that is missing or malformed.
    """
    assembly = Assembly(experiment)
    run = RunDirectory(run_dir)
    prepare(experiment.data)
    records = open_split(experiment.data, experiment.data.train_split)
    layouts, rows = assembly.layouts, assembly.rows
    run.claim(experiment)
    for task, layout in layouts.items():
        logger.info("%s rows: %s", task, layout.attention_order)
    tokenizer = open_tokenizer(run, assembly, records)
    dataset = training_batches(
        experiment.data,
        layouts,
        rows,
        records,
        tokenizer,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    trainer = make_trainer(assembly, iter(dataset), next(iter(dataset)))
    checkpoints = RunCheckpoints(run.checkpoints, experiment.training)
    try:
        restored = checkpoints.restore(trainer.state, trainer.batches)
        if restored is not None:
            trainer.state, step = restored
            logger.info("resuming %s after step %d", run.path, step)
        run_steps(trainer, run, checkpoints)
    finally:
        checkpoints.close()
    return run


def run_steps(trainer: Trainer, run: RunDirectory, checkpoints: RunCheckpoints) -> None:
    """Takes the steps that are left, writing metrics and checkpoints on the way.

    A row's `step_seconds` is the mean since the row before, `input_wait_share` what of
    that the device waited for data (see `input_wait`).
    """
    config = trainer.assembly.experiment.training
    first_step = int(trainer.state.step)
    layouts, rows = trainer.assembly.layouts, trainer.assembly.rows
    tokens = sum(rows[task] * layouts[task].row_length for task in layouts)
    writer = MetricWriter(run, first_step)
    progress = Progress(first_step, config.steps, tokens)
    watcher = EndWatcher()
    wait = InputWait(watcher)
    interval_start, interval_step = time.monotonic(), first_step
    try:
        for step in range(first_step + 1, config.steps + 1):
            batch = wait.next_batch(trainer.batches)
            trainer.state, metrics = trainer.step(trainer.state, batch)
            wait.step_started(metrics)
            save = checkpoints.is_due(step, config.steps)
            if step % config.log_every == 0 or save or step == first_step + 1:
                values = {name: float(value) for name, value in metrics.items()}
                _check_finite(values, step, checkpoints)
                seconds = time.monotonic() - interval_start
                values["step_seconds"] = seconds / (step - interval_step)
                values["input_wait_share"] = wait.take_seconds() / seconds
                shown = {
                    name.removesuffix("/loss"): value
                    for name, value in values.items()
                    if name == "loss" or name.endswith("/loss")
                }
                values["tokens_per_second"] = tokens / values["step_seconds"]
                progress.update(step, shown)
                writer.write(step, values)
                if save:
                    checkpoints.save(step, trainer.state, trainer.batches)
                interval_start, interval_step = time.monotonic(), step
    finally:
        watcher.close()
        progress.close()
        writer.close()


def _check_finite(
    values: dict[str, float], step: int, checkpoints: RunCheckpoints
) -> None:
    """Stops a run whose loss or gradient is not a number, before it is saved."""
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(values[name]):
            saved = checkpoints.steps()
            last = f"checkpoint {saved[-1]} is intact" if saved else "nothing is saved"
            raise RunError(
                f"{name} became {values[name]} at step {step} and training stopped; "
                f"{last}; lower training.learning_rate or training.clip_norm."
            )
