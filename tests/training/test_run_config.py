"""What a run directory says about its experiment is what was trained."""

import dataclasses
import logging

import pytest

from experiments.command_line import experiment_names, load_experiment
from tests.training.tiny_experiment import tiny_experiment, with_mesh
from unimod_jax.training import loop
from unimod_jax.training.run_directory import (
    RunDirectory,
    RunError,
    experiment_from_json,
    experiment_to_json,
)


@pytest.mark.parametrize("name", experiment_names())
def test_every_experiment_is_read_back_as_it_was_written(name):
    experiment = load_experiment(name)
    assert experiment_from_json(experiment_to_json(experiment)) == experiment


def test_a_run_says_in_which_order_attention_reads_its_rows(
    data_directory, tmp_path, caplog, monkeypatch
):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "training_batches", stop)
    caplog.set_level(logging.INFO, logger="unimod_jax")
    with pytest.raises(KeyboardInterrupt):
        loop.train(tiny_experiment(data_directory), tmp_path)
    said = "text_to_image rows: attention in storage order (1 blocks of 128 as stored"
    assert said in caplog.text


def test_rows_that_do_not_fit_the_devices_leave_no_run_behind(tmp_path):
    tiny = tiny_experiment(tmp_path / "data")
    odd = dataclasses.replace(
        tiny, data=dataclasses.replace(tiny.data, batch_size=tiny.data.batch_size // 4)
    )
    with pytest.raises(ValueError, match="cannot be taken evenly over 8 devices; chan"):
        loop.train(with_mesh(odd, fsdp=8), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_other_tasks_is_refused_by_the_fields_that_differ(tmp_path):
    tiny = tiny_experiment(tmp_path / "data")
    run = RunDirectory(tmp_path / "run")
    run.claim(tiny)
    first, *others = tiny.tasks
    heavier = dataclasses.replace(first, loss_weight=3.0)
    with pytest.raises(RunError) as refused:
        run.claim(dataclasses.replace(tiny, tasks=(heavier, *others)))
    said = f"tasks.{first.name}.loss_weight is {first.loss_weight} there but 3.0 here"
    assert f"({said})" in str(refused.value)
    with pytest.raises(RunError, match=r"tasks is .* there but .* here"):
        run.claim(dataclasses.replace(tiny, tasks=(*others, first)))
