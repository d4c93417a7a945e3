"""One point with the real training command, on a model of one layer."""

import json
import sys
from pathlib import Path

import pytest

from experiments.sweep.__main__ import main
from unimod_jax.training import RunDirectory

# Not `-m`: the command itself keeps compiled programs, which tests do not.
TRAIN = [sys.executable, "-c", "from experiments.train import main; main()"]
SMALL = {
    "training.steps": "3",
    "training.log_every": "1",
    "model.num_layers": "1",
    "model.width": "16",
    "model.head_dim": "4",
    "tasks.image_to_text.share": "0",
    "tasks.text_only.share": "0",
    "tasks.text_to_image.share": "1",
    "data.batch_size": "2",
}


def test_a_point_is_a_run_of_the_training_command(tmp_path: Path):
    options = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    options += ["--data.directory", str(tmp_path / "data")]
    out = tmp_path / "sweep"
    axis = ["--vary", "mod.plan=0:0.5"]
    with pytest.raises(SystemExit) as stopped:
        main(["toy/demo", "--tiny", *axis, "--out", str(out), *options], train=TRAIN)
    assert stopped.value.code == 0
    (point,) = json.loads((out / "results.json").read_text())["points"]
    run = RunDirectory(out / "points" / "plan=0-0.5" / "run")
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert point["figures"]["loss"] == rows[2]["loss"]
    seconds = (rows[1]["step_seconds"] + rows[2]["step_seconds"]) / 2
    assert point["figures"]["step_seconds"] == pytest.approx(seconds)
    plan = run.read_experiment().mod.plan
    assert {of_task.keep_ratios for of_task in plan} == {(0.5,)}
