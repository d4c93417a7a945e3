"""Told to stop, or out of control, a run ends as it says, and goes on as if not."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import chex
import numpy as np
import pytest

from tests.training.test_resume import final_arrays, losses
from tests.training.tiny_experiment import tiny_experiment, with_mesh
from unimod_jax.training import Preempted, RunDirectory, RunError, loop, train
from unimod_jax.training.checkpoint import NewestWhole, RunCheckpoints
from unimod_jax.training.endings import STOPPED
from unimod_jax.training.metric_writer import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")


@pytest.fixture(scope="module")
def undisturbed(data_directory: Path, tmp_path_factory) -> RunDirectory:
    path = tmp_path_factory.mktemp("undisturbed")
    return train(tiny_experiment(data_directory), path)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable], None]:
    """Does something just before a step is taken."""

    def install(step: int, action: Callable[[], None]) -> None:
        take = loop.StepLoop._take

        def acting(self, number, wait):
            if number == step:
                action()
            return take(self, number, wait)

        monkeypatch.setattr(loop.StepLoop, "_take", acting)

    return install


def test_sigterm_saves_the_step_it_is_at_and_the_run_goes_on_from_there(
    undisturbed: RunDirectory, data_directory: Path, tmp_path: Path, at_step
):
    before = signal.getsignal(signal.SIGTERM)
    at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted, match="is saved at step 5 of 6") as raised:
        train(tiny_experiment(data_directory), tmp_path)
    assert raised.value.exit_code == STOPPED
    assert signal.getsignal(signal.SIGTERM) == before
    run = RunDirectory(tmp_path)
    assert sorted(int(each.name) for each in run.checkpoints.iterdir()) == [3, 5]

    # In the last step it is no reason to run again.
    at_step(6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    train(tiny_experiment(data_directory), tmp_path)
    assert losses(run) == losses(undisturbed)
    chex.assert_trees_all_equal(final_arrays(run), final_arrays(undisturbed))


def test_a_run_says_where_its_time_went(undisturbed: RunDirectory):
    record = json.loads(undisturbed.time.read_text())
    assert record["steps_taken"] == 6
    assert all(record["seconds"][part] > 0 for part in record["seconds"])
    assert record["total"] == pytest.approx(sum(record["seconds"].values()))


def test_a_run_may_go_on_with_another_mesh(undisturbed: RunDirectory):
    experiment = undisturbed.read_experiment()
    undisturbed.claim(with_mesh(experiment, data=2, fsdp=4))


# --- Updates that are thrown away -----------------------------------------------------


def test_steps_beyond_the_bound_are_counted_until_the_budget_is_spent(
    data_directory: Path, tmp_path: Path
):
    experiment = tiny_experiment(data_directory, skip_budget=2, skip_above=1e-6)
    with pytest.raises(RunError, match=r"exceeded training.skip_above 1e-06 at step 3"):
        train(experiment, tmp_path)
    rows = read_metrics(RunDirectory(tmp_path).metrics)
    assert [row["skipped_steps"] for row in rows] == [1.0, 1.0]


def test_a_loss_that_is_not_finite_leaves_nothing_but_finite_checkpoints(
    data_directory: Path, tmp_path: Path
):
    experiment = tiny_experiment(
        data_directory,
        learning_rate=1e30,
        warmup_steps=3,
        clip_norm=1e30,
        skip_budget=100,
        checkpoint_every=1,
    )
    run = train(experiment, tmp_path)
    rows = read_metrics(run.metrics)
    assert sum(row["skipped_steps"] for row in rows) > 0
    assert all(np.isfinite(array).all() for array in final_arrays(run).values())


def test_a_normal_step_keeps_its_bits(
    undisturbed: RunDirectory, data_directory: Path, tmp_path: Path
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "unimod_jax.training.step.keep_unless_good",
            lambda before, after, metrics, above: (
                after,
                {**metrics, "skipped_steps": 0.0 * metrics["loss"]},
            ),
        )
        plain = train(tiny_experiment(data_directory), tmp_path)
    assert losses(undisturbed) == losses(plain)
    chex.assert_trees_all_equal(final_arrays(undisturbed), final_arrays(plain))


# --- Saves in the background ----------------------------------------------------------


def test_what_became_of_a_save_is_told_at_the_next_one(
    undisturbed: RunDirectory, monkeypatch: pytest.MonkeyPatch
):
    config = undisturbed.read_experiment().training
    checkpoints = RunCheckpoints(undisturbed.checkpoints, config)

    class FullDisk:
        def result(self) -> bool:
            raise ValueError("RESOURCE_EXHAUSTED: ... No space left on device")

    orbax = checkpoints._checkpointer
    monkeypatch.setattr(orbax, "save_checkpointables_async", lambda *a, **k: FullDisk())
    checkpoints.save(7, None)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(8, None)
    checkpoints.close()


def test_a_checkpoint_with_a_missing_file_is_passed_over_without_loading(
    undisturbed: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = RunDirectory(tmp_path / "copy")
    shutil.copytree(undisturbed.path, run.path)
    lost = next((run.checkpoints / "6" / "state").rglob("_METADATA"))
    lost.unlink()
    config = run.read_experiment().training
    checkpoints = RunCheckpoints(run.checkpoints, config, read_only=True)
    assert not checkpoints._has_its_files(6) and checkpoints._has_its_files(3)
    assert "_METADATA is truncated or missing" in caplog.text


def test_a_damaged_checkpoint_takes_no_whole_ones_place():
    class Saved(NamedTuple):
        step: int

    def kept(steps: list[int], damaged: set[int]) -> list[int]:
        rule = NewestWhole(2, damaged.__contains__)
        saved = [Saved(step) for step in steps]
        flags = rule.should_preserve(saved, context=None)
        return [step for step, keep in zip(steps, flags, strict=True) if keep]

    assert kept([1, 2, 3], set()) == [2, 3]
    assert kept([1, 2, 3, 4], {3}) == [2, 3, 4]
    assert kept([1, 2, 3, 4], {4}) == [2, 3, 4]
    assert kept([1, 2, 3, 4], {1, 2}) == [3, 4]
