"""Runs side by side, from nothing but their configuration and their rows."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.command_line import load_experiment
from experiments.compare import main
from unimod_jax.models import MixtureOfDepths
from unimod_jax.training import RunDirectory

IMAGE_LOSS = "text_to_image/image_loss"


def loss_after(step: float) -> float:
    return 1.0 + 3.0 / float(np.sqrt(1.0 + step / 20.0))


def write_run(path: Path, stretch: float = 1.0, routed: bool = True) -> Path:
    """A run of 400 steps, a tenth of a second each, measured every tenth step."""
    experiment = load_experiment("toy/demo")
    if not routed:
        experiment = dataclasses.replace(experiment, mod=MixtureOfDepths())
    run = RunDirectory(path)
    run.claim(experiment)
    rows = []
    for step in range(5, 401, 5):
        row: dict[str, float] = {"step": step, "loss": 1.0, "step_seconds": 0.1}
        if step % 10 == 0:
            loss = loss_after(step / stretch)
            row |= {"held_out/loss": 2 * loss, f"held_out/{IMAGE_LOSS}": loss}
        rows.append(row)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def compared(tmp_path: Path, *runs: Path) -> dict:
    main([*map(str, runs), "--json", str(tmp_path / "all.json")])
    return json.loads((tmp_path / "all.json").read_text())


def test_a_run_that_needs_half_the_steps_is_found_out(tmp_path: Path, capsys):
    slow = write_run(tmp_path / "slow", routed=False)
    fast = write_run(tmp_path / "fast", stretch=0.5)
    found = compared(tmp_path, slow, fast)
    flops = {run["name"]: run["flops_per_step"] for run in found["runs"]}
    assert 0 < flops["fast"] < flops["slow"]
    by_loss = {record["loss"]: record for record in found["step_matching"]}
    assert set(by_loss) == {"loss", IMAGE_LOSS}
    for record in by_loss.values():
        for kind in ("slope", "end_point"):
            assert record["steps"][kind] == pytest.approx(0.5, rel=1e-2)
            assert record["seconds"][kind] == pytest.approx(0.5, rel=1e-2)
            ratio = 0.5 * flops["fast"] / flops["slow"]
            assert record["flops"][kind] == pytest.approx(ratio, rel=1e-2)
    assert found["runs"][0]["train_seconds"] == pytest.approx(40)
    assert found["runs"][0]["caption_accuracy"] is None
    assert capsys.readouterr().out.startswith("fast  loss: steps 0.50")


def test_what_is_never_reached_is_a_dash(tmp_path: Path, capsys):
    fast = write_run(tmp_path / "fast", stretch=0.5)
    slow = write_run(tmp_path / "slow")
    found = compared(tmp_path, fast, slow)
    record = found["step_matching"][0]
    assert record["steps"]["end_point"] is None
    assert record["steps"]["slope"] == pytest.approx(2.0, rel=1e-2)
    assert "(end -)" in capsys.readouterr().out


def test_the_last_of_repeated_rows_counts_and_bad_ones_are_passed_over(
    tmp_path: Path, caplog
):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    clean = compared(tmp_path, one, other)
    rows = RunDirectory(other).metrics
    repeated = {"step": 10, "step_seconds": 99.0, "held_out/loss": 0.1}
    bad = ["3", '{"step": 20', '{"loss": 1}', '{"step": 20, "step_seconds": NaN}']
    lines = [json.dumps(repeated), *bad]
    rows.write_text("\n".join(lines) + "\n" + rows.read_text())
    assert compared(tmp_path, one, other) == clean
    assert caplog.text.count("cannot be read; it is passed over") == len(bad)


def test_a_summary_lends_its_accuracies_and_other_rows_are_noted(tmp_path: Path):
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other")
    RunDirectory(other).summary.write_text('{"caption_accuracy": 0.75}')
    config = RunDirectory(other).config
    text = config.read_text().replace('"caption_tokens": 9', '"caption_tokens": 8')
    config.write_text(text.replace('"default": ""', '"default": "?"'))
    found = compared(tmp_path, one, other)
    assert found["runs"][1]["caption_accuracy"] == 0.75
    assert found["notes"] == [
        "other and one differ in data.caption_tokens, tasks.image_to_text, "
        "tasks.text_only, tasks.text_to_image: their held-out losses are of other rows."
    ]


def test_the_page_is_one_file_with_everything_in_it(tmp_path: Path):
    runs = [write_run(tmp_path / name, s) for name, s in (("a", 1.0), ("<b>", 0.6))]
    out = tmp_path / "page.html"
    main([*map(str, runs), "--out", str(out)])
    page = out.read_text()
    links = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", page)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "<script" not in page and "<b>" not in page
    # Two losses over steps, their sum over FLOPs and over seconds.
    assert page.count("<svg") == 4
    assert [*tmp_path.glob("*.partial")] == []


@pytest.mark.parametrize(
    ("runs", "options", "sentence"),
    [
        (["one"], [], "takes two or more"),
        (["one", "bare"], [], "has no held-out losses"),
        (["one", "nowhere"], [], "is not a run directory"),
        (["one", "one"], ["--out", "/no/such/folder/a.html"], "does not exist"),
        (["one", "one"], ["--json", "/"], "is a directory"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    tmp_path: Path, capsys, runs: list[str], options: list[str], sentence: str
):
    write_run(tmp_path / "one")
    bare = RunDirectory(write_run(tmp_path / "bare"))
    bare.metrics.write_text('{"step": 1, "step_seconds": 1.0}\n')
    with pytest.raises(SystemExit) as stopped:
        main([*(str(tmp_path / run) for run in runs), *options])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1
