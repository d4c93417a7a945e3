"""The training loop: records in, checkpoints and metrics out, resumable at any step.

Every process runs all of it on its own rows; what is written once (metrics, progress,
configuration, tokenizer) is written by process 0.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from unimod_jax.data import (
    Record,
    TextTokenizer,
    open_split,
    prepare,
    skip_batches,
    training_batches,
)
from unimod_jax.layout import UnifiedBatch
from unimod_jax.models import UnifiedModel
from unimod_jax.parallel import batch_sharding, make_mesh, on_mesh
from unimod_jax.training.checkpoint import RunCheckpoints
from unimod_jax.training.endings import Preempted
from unimod_jax.training.experiment import Assembly, Experiment
from unimod_jax.training.held_out import PREFIX, HeldOutLoss, open_held_out
from unimod_jax.training.input_wait import EndWatcher, InputWait
from unimod_jax.training.learned_codec import (
    check_tokenizer_is_there,
    coded_split,
    open_codec,
)
from unimod_jax.training.metric_writer import MetricWriter
from unimod_jax.training.optimizer import make_optimizer
from unimod_jax.training.preemption import StopNotice
from unimod_jax.training.processes import ALONE, Processes
from unimod_jax.training.profile import ProfileSteps, StepTrace
from unimod_jax.training.progress import Progress
from unimod_jax.training.run_directory import RunDirectory, RunError
from unimod_jax.training.sharded_step import check_rows, jit_step
from unimod_jax.training.skipped_steps import METRIC, SkipBudget
from unimod_jax.training.starting_point import StartingPoint, check_pictures
from unimod_jax.training.state import TrainState, make_state
from unimod_jax.training.step import Metrics, Step
from unimod_jax.training.time_breakdown import TimeBreakdown

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
      held_out: measures the state on held-out rows, if it is asked for.
    """

    assembly: Assembly
    model: UnifiedModel
    step: Step
    state: TrainState
    batches: Iterator[UnifiedBatch]
    held_out: HeldOutLoss | None = None


def open_tokenizer(
    run: RunDirectory, assembly: Assembly, records: Sequence[Record]
) -> TextTokenizer:
    """The run's tokenizer: as saved, or trained on the texts and then saved."""
    if run.tokenizer.exists():
        return TextTokenizer.load(run.tokenizer, assembly.vocabulary)
    texts = [text for record in records for text in record.texts]
    tokenizer = TextTokenizer.train(texts, assembly.vocabulary)
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
    compiled = jit_step(model, experiment, optimizer, shardings, rows)

    def step(state: TrainState, batch: UnifiedBatch) -> tuple[TrainState, Metrics]:
        with on_mesh(mesh, rules):
            return compiled(state, _on_devices(batch, rows))

    return Trainer(assembly, model, step, state, batches)


def _on_devices(batch: UnifiedBatch, sharding: jax.sharding.Sharding) -> UnifiedBatch:
    """Puts this process's rows on its devices."""
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), batch
    )


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    start: StartingPoint | None = None,
    image_tokenizer: Path | None = None,
    processes: Processes = ALONE,
    profile: ProfileSteps | None = None,
) -> RunDirectory:
    """Trains an experiment in a run directory, resuming what is there.

    Args:
      experiment: what to train.
      run_dir: made if it does not exist; the same for all processes.
      start: a run or converted model whose weights a new run starts from, and which the
        experiment has adopted (`StartingPoint.adopted_by`); None for fresh ones.
      image_tokenizer: file or folder that a new run copies its learned image tokenizer
        from.
      processes: of the run, from `start_processes`.
      profile: which steps to trace.

    Returns:
      The run directory.

    Raises:
      RunError: for a directory of another configuration, unreadable checkpoints, or
        more steps that are not finite than `training.skip_budget`.
      Preempted: if the run was told to stop, after it was saved.
      DataError: for data that is missing or malformed.
    """
    times = TimeBreakdown()
    if processes.count != jax.process_count():
        raise RunError(
            f"JAX runs {jax.process_count()} processes but training was given "
            f"{processes.count}; begin with training.start_processes."
        )
    run = RunDirectory(run_dir)
    with processes.together(), StopNotice(processes) as notice:
        trainer = _open_trainer(
            experiment, run, start, image_tokenizer, processes, notice
        )
        config = experiment.training
        checkpoints = RunCheckpoints(run.checkpoints, config, processes=processes)
        steps = None
        try:
            with times.spend("checkpoint"):
                _take_up(trainer, checkpoints, run, start, processes)
            steps = StepLoop(trainer, run, checkpoints, processes, times)
            stopped = steps.run(notice, profile)
        finally:
            with times.spend("checkpoint"):
                checkpoints.close()
            if steps is not None:
                steps.note_time()
        if stopped is not None:
            raise Preempted(
                f"the run was told to stop and is saved at step {stopped} of "
                f"{config.steps}; run the same command again to go on."
            )
    return run


def _take_up(
    trainer: Trainer,
    checkpoints: RunCheckpoints,
    run: RunDirectory,
    start: StartingPoint | None,
    processes: Processes,
) -> None:
    """Goes on from the newest checkpoint, or begins from the weights to start with."""
    restored = checkpoints.restore(trainer.state)
    if restored is not None:
        trainer.state, step = restored
        skip_batches(trainer.batches, step)
        logger.info("resuming %s after step %d", run.path, step)
    elif start is not None:
        trainer.state = start.started(trainer.state, trainer.assembly, processes)
        logger.info("starting from the weights of %s", start.run.path)


def _open_trainer(
    experiment: Experiment,
    run: RunDirectory,
    start: StartingPoint | None,
    image_tokenizer: Path | None,
    processes: Processes,
    notice: StopNotice,
) -> Trainer:
    """Claims the run directory and makes the trainer of its experiment."""
    assembly = Assembly(experiment)
    check_rows(assembly, make_mesh(experiment.mesh))
    if start is not None:
        check_pictures(start.experiment, experiment)
    with processes.first_goes_ahead("data set, configuration and tokenizer"):
        prepare(experiment.data)
        records = open_split(experiment.data, experiment.data.train_split)
        layouts, rows = assembly.layouts, assembly.rows
        if not processes.is_first and not run.config.exists():
            raise RunError(
                f"process {processes.index} does not find what process 0 wrote to "
                f"{run.path}; give a --run-dir on a file system that all hosts share."
            )
        if start is None and image_tokenizer is None:
            check_tokenizer_is_there(run, experiment.data)
        run.claim(experiment)
        if start is not None and processes.is_first:
            start.copy_into(run)
        if image_tokenizer is not None and processes.is_first:
            run.copy_image_tokenizer(image_tokenizer)
        tokenizer = open_tokenizer(run, assembly, records)
    codec = open_codec(run, experiment.data)
    records = coded_split(
        records,
        codec,
        experiment.data,
        run,
        processes=processes,
        told_to_stop=lambda: notice.reached(0),
    )
    for task, layout in layouts.items():
        logger.info("%s rows: %s", task, layout.attention_order)
    dataset = training_batches(
        experiment.data,
        layouts,
        rows,
        records,
        tokenizer,
        process_index=processes.index,
        process_count=processes.count,
    )
    trainer = make_trainer(assembly, iter(dataset), next(iter(dataset)))
    trainer.held_out = open_held_out(assembly, trainer.model, tokenizer, codec)
    return trainer


class StepLoop:
    """Takes the steps that are left, writing metrics and checkpoints on the way.

    A row's `step_seconds` is the mean since the row before, `input_wait_share` what of
    that the device waited for data (see `input_wait`), `skipped_steps` how many steps
    since the row before left the parameters as they were (see `skipped_steps`).
    `held_out/...` is the loss on held-out rows after the step (see `held_out`), in the
    rows of steps where it is due.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: RunDirectory,
        checkpoints: RunCheckpoints,
        processes: Processes = ALONE,
        times: TimeBreakdown | None = None,
    ):
        """Takes no step yet; everything stands after the step of the state."""
        self._trainer, self._run, self._checkpoints = trainer, run, checkpoints
        self._times = times or TimeBreakdown()
        self._config = trainer.assembly.experiment.training
        self._first = int(trainer.state.step)
        self._tokens = trainer.assembly.tokens_per_step
        self._skips = SkipBudget(self._config.skip_budget, self._config.skip_above)
        self._processes, self._writes = processes, processes.is_first
        self._row_step, self._row_time = self._first, time.monotonic()
        self._held_out: dict[str, float] = {}

    def run(self, notice: StopNotice, profile: ProfileSteps | None) -> int | None:
        """Takes the steps; the one after which it was told to stop, or None."""
        config, run, first = self._config, self._run, self._first
        traced = profile if self._writes else None
        trace = StepTrace(traced, run.profile, first + 1, config.steps)
        with contextlib.ExitStack() as stack:
            watcher = EndWatcher()
            stack.callback(watcher.close)
            stack.callback(trace.close)
            wait = InputWait(watcher)
            writer = progress = None
            if self._writes:
                writer = MetricWriter(run, first)
                progress = Progress(first, config.steps, self._tokens)
                stack.callback(writer.close)
                stack.callback(progress.close)
            self._processes.gather("first step")
            for step in range(first + 1, config.steps + 1):
                trace.before(step)
                metrics = self._take(step, wait)
                trace.after(step, metrics)
                stop = notice.reached(step) and step < config.steps
                save = stop or self._checkpoints.is_due(step, config.steps)
                due = self._held_out_is_due(step)
                if step % config.log_every == 0 or save or due or step == first + 1:
                    values = self._row(step, metrics, wait)
                    if due:
                        values |= self._measure_held_out()
                    if writer and progress:
                        progress.update(step, _losses(values | self._held_out))
                        writer.write(step, values)
                if save:
                    self._save(step)
                if stop:
                    return step
        return None

    def _take(self, step: int, wait: InputWait) -> Metrics:
        """Starts a step, the first one under "compile"; returns its metrics."""
        trainer, is_first = self._trainer, step == self._first + 1
        batch = wait.next_batch(trainer.batches)
        self._times.enter("compile" if is_first else "steps")
        trainer.state, metrics = trainer.step(trainer.state, batch)
        self._times.enter("steps")
        wait.step_started(metrics)
        self._skips.step_started(step, metrics)
        return metrics

    def _row(self, step: int, metrics: Metrics, wait: InputWait) -> dict[str, float]:
        """The row of metrics of a step; waits for it."""
        saved = self._checkpoints.steps()
        skipped = self._skips.take(saved[-1] if saved else None)
        values = {name: float(value) for name, value in metrics.items()}
        values[METRIC] = float(skipped)
        now = time.monotonic()
        seconds = now - self._row_time
        waited = wait.take_seconds()
        self._times.move(waited, "input")
        values["step_seconds"] = seconds / (step - self._row_step)
        values["input_wait_share"] = waited / seconds
        values["tokens_per_second"] = self._tokens / values["step_seconds"]
        self._row_step, self._row_time = step, now
        return values

    def _held_out_is_due(self, step: int) -> bool:
        every = self._config.held_out_every
        return every > 0 and (step % every == 0 or step == self._config.steps)

    def _measure_held_out(self) -> dict[str, float]:
        """The held-out losses of the state, as a row names them."""
        trainer = self._trainer
        if trainer.held_out is None:
            return {}
        with self._times.spend("held_out"):
            found = trainer.held_out(trainer.state.variables())
        self._row_time = time.monotonic()
        self._held_out = {PREFIX + name: value for name, value in found.items()}
        return self._held_out

    def _save(self, step: int) -> None:
        with self._times.spend("checkpoint"):
            self._checkpoints.save(step, self._trainer.state)
        self._skips.saved()
        self._row_time = time.monotonic()

    def note_time(self) -> None:
        """Writes where the time went, and logs it."""
        if self._writes:
            steps = self._row_step - self._first
            self._times.write(self._run.time, steps)
            logger.info("%s", self._times.sentence())


def _losses(values: dict[str, float]) -> dict[str, float]:
    """What progress shows of a row: the losses, of held-out rows only the sum."""
    return {
        name.removesuffix("/loss"): value
        for name, value in values.items()
        if name in ("loss", PREFIX + "loss")
        or (name.endswith("/loss") and not name.startswith(PREFIX))
    }
