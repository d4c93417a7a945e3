"""The summary, the report and the two commands, on a run of a few steps."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.evaluate import summary_lines
from experiments.sample import main as sample
from unimod_jax.data import SplitRecords
from unimod_jax.evaluation import (
    Sampler,
    TrainedRun,
    image_grid,
    realised_saving,
)
from unimod_jax.evaluation.pictures import png_bytes
from unimod_jax.evaluation.summary import train_seconds
from unimod_jax.training.metric_writer import read_metrics

HEADLINES = (
    *("caption_accuracy", "generation_accuracy"),
    *("flops_ratio", "step_time_ratio", "train_seconds"),
)


def test_the_summary_has_every_headline(summary: dict[str, Any]):
    assert all(np.isfinite(summary[name]) for name in HEADLINES)
    assert summary["dense_twin"]["steps"] >= 9
    assert summary["notes"] == []
    # Also the realised saving, and transcription, which this run cannot do; two pieces
    # and two parts of the records that are judged.
    assert len(summary_lines(summary)) == len(HEADLINES) + 2 + 4


def test_evaluation_measures_the_held_out_losses_that_training_wrote(
    summary: dict[str, Any], run_path: Path
):
    last = read_metrics(run_path / "metrics.jsonl")[-1]
    written = {
        name.removeprefix("held_out/"): value
        for name, value in last.items()
        if name.startswith("held_out/")
    }
    assert "loss" in written and summary["held_out"].keys() == written.keys()
    assert summary["held_out"] == pytest.approx(written, rel=1e-5)


def test_routing_costs_fewer_flops_than_the_dense_twin(summary: dict[str, Any]):
    assert 0 < summary["flops_ratio"] < 1
    twin = summary["dense_twin"]
    assert summary["flops_ratio"] == twin["flops"] / twin["dense_flops"]
    assert twin["parameters"] > twin["dense_parameters"]
    wanted = (1 - summary["step_time_ratio"]) / (1 - summary["flops_ratio"])
    assert summary["realised_saving"] == pytest.approx(wanted)


def test_realised_saving_by_hand():
    assert realised_saving(0.6, 0.7) == pytest.approx(0.75)
    assert realised_saving(0.5, 1.1) == pytest.approx(-0.2)
    assert realised_saving(1.0, 0.9) is None


def test_train_seconds_weigh_rows_by_their_steps(trained: TrainedRun, tmp_path: Path):
    run = type(trained.run)(tmp_path)
    assert train_seconds(run) == 0.0
    run.metrics.write_text(
        '{"step": 1, "step_seconds": 9.0}\n{"step": 11, "step_seconds": 0.5}\n'
    )
    assert train_seconds(run) == pytest.approx(14.0)


def test_each_task_is_written_and_judged(summary: dict[str, Any]):
    names = {"text_to_image/image", "image_to_text/caption"}
    for key in ("accuracy", "rows_written", "accuracy_per_wanted"):
        assert set(summary[key]) == names
    assert set(summary["rows_written"].values()) == {20}
    assert summary["caption_accuracy"] == summary["accuracy"]["image_to_text/caption"]
    assert summary["generation_accuracy"] == summary["accuracy"]["text_to_image/image"]
    # Twenty drawings ask for all digits equally often.
    assert set(summary["accuracy_per_wanted"]["text_to_image/image"]) == set(
        "0123456789"
    )
    assert summary["judge_accuracy"]["text"] == 1.0
    assert summary["judge_accuracy"]["image"] >= 0.97


def test_the_report_is_one_file_with_everything_in_it(
    summary: dict[str, Any], run_path: Path
):
    page = (run_path / "report.html").read_text()
    for section in ("losses", "drawings", "texts", "routing", "cost"):
        assert f'<section id="{section}">' in page
    assert '<section id="configuration">' in page
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]*)", page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "@import" not in page and "<script" not in page
    # For each of two tasks its losses, its held-out losses and what it keeps.
    assert page.count("<svg") == 6
    assert len(page) < 3_000_000
    assert f"{100 * summary['caption_accuracy']:.1f}%" in page
    assert "num_kv_heads" in page


def test_an_image_grid_repeats_pixels_and_leaves_white_gaps():
    images = np.array([10, 20, 30], np.uint8).reshape(3, 1, 1, 1)
    grid = image_grid(images, columns=2, scale=2, gap=1)[:, :, 0]
    np.testing.assert_array_equal(
        grid,
        [
            [10, 10, 255, 20, 20],
            [10, 10, 255, 20, 20],
            [255, 255, 255, 255, 255],
            [30, 30, 255, 255, 255],
            [30, 30, 255, 255, 255],
        ],
    )


def test_sample_writes_a_grid(
    run_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from PIL import Image

    out = tmp_path / "seven.png"
    asked = ["--prompt", "a handwritten seven", "--count", "3", "--scale", "2"]
    sample([str(run_path), *asked, "--out", str(out)])
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as grid:
        assert grid.size == (2 * 16 + 4, 2 * 16 + 4)
    assert [*tmp_path.iterdir()] == [out]


def test_sample_captions_an_image(
    run_path: Path,
    tmp_path: Path,
    held_out: SplitRecords,
    capsys: pytest.CaptureFixture[str],
):
    scan = tmp_path / "scan.png"
    scan.write_bytes(png_bytes(held_out[0].images[0].pixels))
    sample([str(run_path), "--image", str(scan)])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_sample_draws_captions_by_chance_from_the_seed(
    run_path: Path, held_out: SplitRecords, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    scan = tmp_path / "scan.png"
    scan.write_bytes(png_bytes(held_out[0].images[0].pixels))
    seeds = []
    monkeypatch.setattr(
        Sampler,
        "caption",
        lambda _, images, asked, seed, task: seeds.append(seed) or [],
    )
    sample([str(run_path), "--image", str(scan), "--seed", "7"])
    assert seeds == [7]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--prompt", "a", "--out", "/no/such/folder/a.png"], "does not exist"),
        (["--prompt", "a", "--out", "/"], "is a directory"),
        (["--image", "/no/such.png"], "cannot read"),
        (["--prompt", "a", "--colour", "red"], "unrecognized arguments"),
        (["--prompt", "a", "--count", "0"], "give 1 or more"),
        ([], "one of the arguments"),
    ],
)
def test_sample_refuses_in_one_sentence(
    run_path: Path,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(SystemExit) as exit_:
        sample([str(run_path), *options])
    assert exit_.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert sentence in message
