"""A run that was killed continues as if it had not been, bit for bit."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from tests.training.tiny_experiment import tiny_experiment
from unimod_jax.training import Assembly, RunDirectory, RunError, train
from unimod_jax.training.checkpoint import RunCheckpoints
from unimod_jax.training.metric_writer import read_metrics

pytestmark = [
    # Orbax's own: these tests read checkpoints without saying where arrays should go.
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
]

_TRAIN_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tests.training.tiny_experiment import tiny_experiment
from unimod_jax.training import checkpoint, train

saved = checkpoint.RunCheckpoints.save
def save_and_die(self, step, state):
    saved(self, step, state)
    self.wait()
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.RunCheckpoints.save = save_and_die
train(tiny_experiment(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def final_arrays(run: RunDirectory) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by path."""
    from orbax.checkpoint import v1 as ocp

    steps = sorted(int(path.name) for path in run.checkpoints.iterdir())
    tree = ocp.load(run.checkpoints / str(steps[-1]), checkpointable_name="state")
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(leaf)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )
        for path, leaf in flat
    }


def losses(run: RunDirectory) -> dict[int, float]:
    """Step -> loss."""
    return {int(row["step"]): row["loss"] for row in read_metrics(run.metrics)}


@pytest.fixture(scope="module")
def undisturbed(data_directory: Path, tmp_path_factory) -> RunDirectory:
    path = tmp_path_factory.mktemp("undisturbed")
    return train(tiny_experiment(data_directory), path)


def test_six_steps_equal_three_a_killed_process_and_three_more(
    undisturbed: RunDirectory, data_directory: Path, tmp_path: Path
):
    died = subprocess.run(
        [sys.executable, "-c", _TRAIN_AND_DIE, str(data_directory), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": ".", "JAX_NUM_CPU_DEVICES": "8"},
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-2000:]
    assert max(losses(RunDirectory(tmp_path))) == 3

    resumed = train(tiny_experiment(data_directory), tmp_path)

    assert losses(resumed) == losses(undisturbed)
    chex.assert_trees_all_equal(final_arrays(resumed), final_arrays(undisturbed))


def test_a_truncated_checkpoint_is_named_and_the_one_before_it_used(
    undisturbed: RunDirectory, data_directory: Path, tmp_path: Path, caplog
):
    run = train(tiny_experiment(data_directory), tmp_path)
    newest = run.checkpoints / "6"
    largest = max(newest.rglob("*"), key=lambda p: p.stat().st_size * p.is_file())
    os.truncate(largest, largest.stat().st_size // 2)

    resumed = train(tiny_experiment(data_directory), tmp_path)

    assert "checkpoint 6" in caplog.text and "cannot be read" in caplog.text
    assert losses(resumed) == losses(undisturbed)
    chex.assert_trees_all_equal(final_arrays(resumed), final_arrays(undisturbed))


def test_without_any_whole_checkpoint_the_run_stops_in_a_sentence(
    data_directory: Path, tmp_path: Path
):
    experiment = tiny_experiment(data_directory, steps=3)
    run = train(experiment, tmp_path)
    for path in (run.checkpoints / "3").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(RunError, match=r"none of the checkpoints \[3\]"):
        train(experiment, tmp_path)


def test_another_configuration_is_refused_with_the_fields_that_differ(
    undisturbed: RunDirectory, data_directory: Path
):
    other = tiny_experiment(data_directory, learning_rate=0.5)
    before = undisturbed.metrics.read_text()
    with pytest.raises(RunError, match=r"training.learning_rate is 0.002 .* 0.5 here"):
        train(other, undisturbed.path)
    assert undisturbed.metrics.read_text() == before


def test_how_often_a_run_is_saved_may_change_when_it_is_resumed(
    undisturbed: RunDirectory, data_directory: Path
):
    train(tiny_experiment(data_directory, checkpoint_every=2), undisturbed.path)
    assert losses(undisturbed).keys() == {1, 2, 3, 4, 5, 6}


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    data_directory: Path, tmp_path: Path
):
    experiment = tiny_experiment(
        data_directory, learning_rate=1e30, warmup_steps=3, clip_norm=1e30
    )
    with pytest.raises(RunError, match=r"became (nan|inf) at step \d"):
        train(experiment, tmp_path)
    checkpoints = RunCheckpoints(
        RunDirectory(tmp_path).checkpoints, experiment.training
    )
    for step in checkpoints.steps():
        arrays = final_arrays(RunDirectory(tmp_path))
        assert all(np.isfinite(array).all() for array in arrays.values()), step


def test_only_the_newest_checkpoints_are_kept(data_directory: Path, tmp_path: Path):
    experiment = tiny_experiment(data_directory, checkpoint_every=1, keep_checkpoints=2)
    run = train(experiment, tmp_path)
    checkpoints = RunCheckpoints(run.checkpoints, experiment.training)
    assert checkpoints.steps() == [5, 6]


def test_rows_of_metrics_hold_at_least_step_and_loss(undisturbed: RunDirectory):
    rows = [json.loads(line) for line in undisturbed.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert all(0 <= row["input_wait_share"] <= 1 for row in rows)
    assert list(undisturbed.tensorboard.iterdir())


def test_a_config_file_gives_back_the_experiment(undisturbed: RunDirectory):
    experiment = undisturbed.read_experiment()
    assert RunDirectory(undisturbed.path).read_experiment() == experiment
    assert Assembly(experiment).rows == {"text_to_image": 8}


def test_an_unknown_name_in_a_config_file_is_refused(
    undisturbed: RunDirectory, tmp_path: Path
):
    fields = json.loads(undisturbed.config.read_text())
    fields["training"]["stepz"] = 3
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(RunError, match="cannot be read as an experiment"):
        RunDirectory(tmp_path).read_experiment()


def test_a_full_disk_is_told_as_such_and_spares_what_is_saved(
    undisturbed: RunDirectory, monkeypatch: pytest.MonkeyPatch
):
    experiment = undisturbed.read_experiment()
    checkpoints = RunCheckpoints(undisturbed.checkpoints, experiment.training)
    before = checkpoints.steps()

    def disk_is_full(*_args, **_options):
        raise ValueError("RESOURCE_EXHAUSTED: ... No space left on device")

    orbax = checkpoints._checkpointer
    monkeypatch.setattr(orbax, "save_checkpointables_async", disk_is_full)
    with pytest.raises(OSError) as raised:
        checkpoints.save(7, None)
    assert raised.value.errno == errno.ENOSPC
    assert checkpoints.steps() == before
