"""Experiments that start from released models."""

import dataclasses

import pytest

from experiments.checkpoint_tour.tiny_release import write_release
from experiments.command_line import load_experiment
from experiments.train import main as train
from unimod_jax.evaluation import Limits, evaluate, open_run
from unimod_jax.models.config import DENSE
from unimod_jax.released_models import FAMILIES, WarmStart, convert_model
from unimod_jax.training import Assembly, RunDirectory, RunError, StartingPoint

TUNING = {"show_o": "show-o", "emu3": "emu3", "chameleon": "chameleon"}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Family -> its tiny release, converted without any change."""
    directories = {}
    for family in TUNING.values():
        folder = tmp_path_factory.mktemp(family)
        release = write_release(family, folder / "release")
        directories[family] = folder / "converted"
        convert_model(
            FAMILIES[family], release.files, directories[family], image_size=8
        )
    return directories


@pytest.mark.parametrize("name", TUNING)
def test_a_tuning_experiment_adopts_a_converted_model(name, converted):
    own = load_experiment(f"tuning/{name}")
    start = StartingPoint.open(converted[TUNING[name]])
    adopted = start.adopted_by(own)
    depth = start.experiment.model.num_layers
    assert (adopted.mot, adopted.mod) == (own.mot, own.mod.at_depth(depth)) != DENSE
    assert adopted.training == own.training
    assert adopted.model == start.experiment.model
    assembly = Assembly(adopted)
    assert assembly.vocabulary == start.experiment.vocabulary
    assert any(design.routes for design in assembly.spec.designs)
    assert set(assembly.layouts) >= {"text_to_image", "image_to_text"}


@pytest.fixture(scope="module")
def trained(converted, tmp_path_factory):
    """A step from Emu3, with a learning rate of next to nothing."""
    path = tmp_path_factory.mktemp("trained") / "run"
    options = (
        *("--run-dir", str(path), "--start-from", str(converted["emu3"])),
        *("--data.name", "handwritten_digits", "--data.attributes", "label"),
        *("--data.parts", "image", "text=captions", "--data.caption_tokens", "64"),
        *("--data.batch_size", "4"),
        *("--training.steps", "1", "--training.learning_rate", "1e-30"),
        *("--training.final_learning_rate", "1e-30", "--training.weight_decay", "0"),
        *("--model.compute_dtype", "float32", "--sampling.negative_prompt", ""),
    )
    train(["tuning/emu3", *options])
    return path


def test_a_run_goes_on_from_the_weights_it_starts_from(converted, trained):
    run, released = open_run(trained), open_run(converted["emu3"])
    ours, theirs = run.variables["params"], released.variables["params"]
    assert (ours["embedding"]["table"] == theirs["embedding"]["table"]).all()
    assert run.step == 1
    assert run.run.published.exists()


def test_a_tuned_run_is_evaluated(trained):
    """Tiny random weights draw and describe nonsense, but all that is measured."""
    summary = evaluate(
        trained, Limits(rows=2, images=2, twin_seconds=0.1), report=False
    )
    assert 0 <= summary["caption_accuracy"] <= 1
    assert 0 <= summary["generation_accuracy"] <= 1
    assert summary["flops_ratio"] < 1
    assert RunDirectory(trained).summary.exists()


def test_towers_start_no_run_without_them(converted, tmp_path):
    release = write_release("emu3", tmp_path / "release")
    towers = tmp_path / "towers"
    convert_model(
        FAMILIES["emu3"], release.files, towers, WarmStart(towers=True), image_size=8
    )
    start = StartingPoint.open(towers)
    dense = StartingPoint.open(converted["emu3"]).experiment
    with pytest.raises(
        RunError,
        match="has towers image, text but the new model's has",
    ):
        start.started(None, Assembly(dataclasses.replace(dense, mot=DENSE[0])))


def test_pictures_stay_those_of_the_converted_model(converted, tmp_path, capsys):
    command = ["tuning/show_o", "--start-from", str(converted["show-o"])]
    with pytest.raises(SystemExit):
        train([*command, "--run-dir", str(tmp_path / "run"), "--data.image_size=16"])
    assert "data.image_size is 16, but the rows" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_that_saved_nothing_starts_nothing(converted, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.claim(StartingPoint.open(converted["emu3"]).experiment)
    with pytest.raises(RunError, match="neither checkpoints/ nor weights/"):
        StartingPoint.open(run.path)
