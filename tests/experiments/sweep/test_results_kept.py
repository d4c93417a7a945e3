"""What is read of a point's process, and what a sweep's directory keeps of it."""

import json
import os
from pathlib import Path

import pytest

from experiments.sweep.measurement import (
    Outcome,
    flat,
    last_error,
    read_check,
    read_run,
    shown,
)
from experiments.sweep.points import Point
from experiments.sweep.processes import Ended
from experiments.sweep.results import SweepDirectory
from unimod_jax.training import RunError

POINT = Point("plan=none", {"mod.plan": "none"})
DONE = Outcome("done", {"loss": 2.5, "fits": True, "topology": "cpu:1"}, None, 0, 1.5)
IDENTITY = {"experiment": "toy/demo", "axes": ["a"], "configuration": {"a": {"b": 1}}}


def check(tmp_path: Path, written: str | None, ended: Ended, printed: str = ""):
    if written is not None:
        (tmp_path / "compile_check.json").write_text(written)
    (tmp_path / "log.txt").write_text(printed)
    return read_check(ended, tmp_path)


def run(tmp_path: Path, rows: list[dict] | None, ended: Ended, printed: str = ""):
    if rows is not None:
        (tmp_path / "run").mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "run" / "metrics.jsonl").write_text(text)
    (tmp_path / "log.txt").write_text(printed)
    return read_run(ended, tmp_path)


# --- Compile checks -------------------------------------------------------------------


def test_a_check_that_fits_has_the_figures_of_its_json(tmp_path: Path):
    written = {
        "fits": True,
        "bytes_per_chip": {"total": 3},
        "collective_bytes_per_chip": {"all-reduce": 2, "all-gather": 5.5},
        "options": ["--mesh.fsdp", 4],
        "utilisation": float("inf"),
    }
    outcome = check(tmp_path, json.dumps(written), Ended(0, 1.25))
    figures = {
        "fits": True,
        "bytes_per_chip.total": 3,
        "collective_bytes_per_chip.all-reduce": 2,
        "collective_bytes_per_chip.all-gather": 5.5,
        "collective_bytes_per_chip.total": 7.5,
        "options": "--mesh.fsdp 4",
    }
    assert outcome == Outcome("done", figures, None, 0, 1.25)


@pytest.mark.parametrize("written", [None, "not JSON", '{"fits": false, "flops": 3}'])
def test_not_to_fit_is_a_result_with_or_without_figures(tmp_path: Path, written):
    outcome = check(tmp_path, written, Ended(3, 1.0), "error: it needs 99 GiB of 95.")
    assert outcome.status == "does not fit" and outcome.exit_code == 3
    assert outcome.error == "it needs 99 GiB of 95."
    assert outcome.figures["fits"] is False
    assert outcome.figures.get("flops") == (
        3 if written and "flops" in written else None
    )


@pytest.mark.parametrize("written", [None, "{", "3", "{}", '{"fits": false}'])
def test_a_check_that_ends_well_without_a_result_failed(tmp_path: Path, written):
    outcome = check(tmp_path, written, Ended(0, 1.0), "compiling\n")
    assert outcome.status == "failed" and "wrote no result to" in outcome.error


@pytest.mark.parametrize(
    ("ended", "printed", "error"),
    [
        (Ended(2, 1.0), "log\nerror: no such chip.\nmore\n", "no such chip."),
        (Ended(1, 1.0), "Traceback ...\nKeyError: 'x'\n\n", "KeyError: 'x'"),
        (Ended(1, 1.0), "", "it ended with status 1, silently."),
        (Ended(-9, 1.0), "half a li", "it was ended by signal 9 (out of memory?); see"),
        (Ended(-11, 1.0), "", "it was ended by signal 11; see"),
        (Ended(-64, 1.0), "", "it was ended by"),
        (
            Ended(0, 61.7, timed_out=True),
            "",
            "it took longer than 62 s; raise --timeout",
        ),
    ],
)
def test_a_failure_is_told_in_one_sentence(tmp_path: Path, ended, printed, error):
    outcome = check(tmp_path, '{"fits": true}', ended, printed)
    assert outcome.status == "failed" and outcome.exit_code == ended.exit_code
    assert outcome.error.startswith(error)


def test_a_long_log_is_read_from_its_end(tmp_path: Path):
    log = tmp_path / "log.txt"
    log.write_bytes(
        b"error: an old one.\n" + b"\xff" * 100_000 + b"\nlast words\n---\n"
    )
    assert last_error(tmp_path) == "last words"
    log.write_text("word " * 1000)
    assert len(last_error(tmp_path) or "") <= 600


# --- Short runs -----------------------------------------------------------------------


def test_a_run_has_its_last_losses_and_its_median_times(tmp_path: Path):
    rows = [
        {"step": 1, "loss": 9.0, "step_seconds": 60.0, "tokens_per_second": 1.0},
        {"step": 2, "loss": 8.0, "step_seconds": 2.0, "tokens_per_second": 40.0},
        {"step": 3, "loss": 7.0, "step_seconds": 9.0, "tokens_per_second": 10.0},
        {
            **{"step": 4, "loss": 6.0, "step_seconds": 3.0, "tokens_per_second": 30.0},
            **{"kept/layer_1/a/image": 0.2, "kept/layer_3/a/image": 0.6, "a/loss": 5.0},
        },
    ]
    outcome = run(tmp_path, rows, Ended(0, 4.0))
    assert outcome.status == "done"
    assert outcome.figures == {
        **{"step": 4, "loss": 6.0, "step_seconds": 3.0, "tokens_per_second": 30.0},
        **{"kept/layer_1/a/image": 0.2, "kept/layer_3/a/image": 0.6, "a/loss": 5.0},
        "kept/a/image": pytest.approx(0.4),
    }


def test_tables_show_losses_and_kept_shares_but_not_every_layer():
    names = ["kept/layer_1/a_b/image", "kept/a_b/image", "a_b/loss", "loss", "other"]
    assert [(one.figure, one.title) for one in shown(names)] == [
        ("loss", "loss"),
        ("a_b/loss", "a b, loss"),
        ("kept/a_b/image", "kept, a b, image"),
    ]


@pytest.mark.parametrize("rows", [None, [], [{"step": 1}]])
def test_a_run_without_a_loss_failed(tmp_path: Path, rows):
    outcome = run(tmp_path, rows, Ended(0, 1.0))
    assert outcome.status == "failed" and "wrote no loss" in outcome.error


@pytest.mark.parametrize("code", [75, 76])
def test_a_run_that_has_to_go_on_has_no_result_yet(tmp_path: Path, code: int):
    assert run(tmp_path, [{"step": 1, "loss": 1.0}], Ended(code, 1.0)) is None


def test_a_run_that_breaks_failed(tmp_path: Path):
    outcome = run(tmp_path, [{"loss": 1.0}], Ended(2, 1.0), "error: loss became nan.")
    assert (outcome.status, outcome.error) == ("failed", "loss became nan.")


# --- The directory --------------------------------------------------------------------


def test_a_result_is_read_as_it_was_written(tmp_path: Path):
    directory = SweepDirectory(tmp_path)
    directory.write(POINT, DONE)
    assert directory.read(POINT) == DONE
    assert sorted(os.listdir(directory.folder(POINT))) == ["result.json"]


@pytest.mark.parametrize("text", ["", '{"point": "keep', "3", "{}", "null"])
def test_what_is_no_whole_result_counts_as_missing(tmp_path: Path, text: str):
    directory = SweepDirectory(tmp_path)
    assert directory.read(POINT).status == "missing"
    directory.write(POINT, DONE)
    (directory.folder(POINT) / "result.json").write_text(text)
    assert directory.read(POINT).status == "missing"


def test_the_result_of_other_values_counts_as_missing(tmp_path: Path):
    directory = SweepDirectory(tmp_path)
    directory.write(POINT, DONE)
    other = Point(POINT.name, {"mod.plan": "last_half:0.20"})
    assert directory.read(other).status == "missing"


def test_a_directory_is_claimed_once_and_found_again(tmp_path: Path):
    directory = SweepDirectory(tmp_path / "new" / "sweep")
    directory.claim(IDENTITY)
    directory.claim(IDENTITY)
    assert json.loads((directory.path / "sweep.json").read_text()) == IDENTITY


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"experiment": "toy/other"}, "experiment is 'toy/demo' there but 'toy/other'"),
        ({"axes": ["a", "b"]}, r"axes is \['a'\] there but \['a', 'b'\] here"),
        ({"configuration": {"a": {"b": 2}}}, "a.b is 1 there but 2 here"),
        ({"configuration": {"a": {}}}, "a.b is 1 there but 'not given' here"),
    ],
)
def test_another_sweep_is_refused_by_what_differs(tmp_path: Path, change, sentence):
    directory = SweepDirectory(tmp_path)
    directory.claim(IDENTITY)
    with pytest.raises(RunError, match=rf"{sentence}.*; choose another --out"):
        directory.claim(IDENTITY | change)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("chapter one")
    with pytest.raises(RunError, match="not empty and not the directory of a sweep"):
        SweepDirectory(tmp_path).claim(IDENTITY)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_an_identity_that_cannot_be_read_is_refused(tmp_path: Path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read; restore it"):
        SweepDirectory(tmp_path).claim(IDENTITY)


def test_two_sweeps_cannot_work_in_one_directory(tmp_path: Path):
    directory = SweepDirectory(tmp_path)
    refused = pytest.raises(RunError, match="another sweep")
    with directory.locked(), refused, directory.locked():
        pass
    with directory.locked():
        pass


def test_figures_are_flat_and_finite():
    tree = {"a": {"b": 1, "c": {"d": True}}, "e": "text", "f": None, "g": [1, "x"]}
    assert flat(tree) == {"a.b": 1, "a.c.d": True, "e": "text", "g": "1 x"}
    assert flat({"x": float("nan"), "y": 2.5}) == {"y": 2.5}
