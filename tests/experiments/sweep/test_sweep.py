"""Whole sweeps with a stand-in for what happens at a point (see stand_in.py)."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments.sweep.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = [sys.executable, str(Path(__file__).with_name("stand_in.py"))]
DRIVER = (
    "import sys; from experiments.sweep.__main__ import main; "
    "main(sys.argv[3:], compile_check=sys.argv[1:3])"
)


def sweep(out: Path, *arguments: str, compiles: bool = True) -> int:
    """Runs the command in this process; returns its exit status."""
    topology = ["--topology", "v5e:8x8"] if compiles else []
    command = ["toy/demo", *topology, "--out", str(out), "--jobs", "2", *arguments]
    with pytest.raises(SystemExit) as stopped:
        main(command, compile_check=STAND_IN, train=STAND_IN)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def results(out: Path) -> dict[str, dict]:
    """Point -> its object in results.json, with the last value of its name."""
    points = json.loads((out / "results.json").read_text())["points"]
    return {one["point"].rpartition("=")[2]: one for one in points}


def starts(out: Path) -> list[str]:
    """The points whose processes were started, as often as they were."""
    lines = (out / "points" / "starts.txt").read_text().splitlines()
    return [line.split()[0] for line in lines]


def plays(*names: str) -> list[str]:
    return ["--vary", f"data.name={','.join(names)}"]


def test_a_point_that_fails_stops_none_of_the_others(tmp_path: Path, capsys):
    names = ("breaks", "refuses", "garbage", "killed", "over", "well")
    assert sweep(tmp_path, *plays(*names)) == 1
    found = results(tmp_path)
    assert list(found) == list(names)
    assert {name: one["status"] for name, one in found.items()} == {
        **dict.fromkeys(("breaks", "refuses", "garbage", "killed"), "failed"),
        "over": "does not fit",
        "well": "done",
    }
    errors = {name: one["error"] for name, one in found.items()}
    assert errors["breaks"] == "KeyError: 'a bug'"
    assert errors["refuses"] == "18 rows are too many; take 9."
    assert errors["over"] == "it needs 30 GB a chip of 20; raise --mesh.fsdp."
    assert errors["well"] is None
    exits = {name: one["exit_code"] for name, one in found.items()}
    assert exits == dict(zip(names, (1, 1, 0, -9, 3, 0), strict=True))
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'report.html'}\n"
    progress = printed.err.splitlines()
    assert (
        "[6/6] name=well: done: GB per chip 18, roofline seconds per step 0.18"
        in " ".join(progress)
    )
    assert progress[-1].startswith("points that failed: 4; --retry-failed")


def test_points_that_do_not_fit_are_results(tmp_path: Path):
    assert sweep(tmp_path, *plays("over", "over_in_compiling", "well")) == 0
    figures = {name: one["figures"] for name, one in results(tmp_path).items()}
    assert figures["over_in_compiling"] == {"fits": False}
    assert figures["over"]["bytes_per_chip.total"] == 18e9


def test_the_same_command_runs_nothing_again_and_retrying_runs_what_failed(
    tmp_path: Path,
):
    command = plays("well", "heals", "over")
    assert sweep(tmp_path, *command) == 1
    assert sweep(tmp_path, *command) == 1
    assert sorted(starts(tmp_path)) == ["name=heals", "name=over", "name=well"]
    assert sweep(tmp_path, *command, "--retry-failed") == 0
    assert starts(tmp_path)[3:] == ["name=heals"]


def test_more_values_run_only_the_new_points(tmp_path: Path):
    seeds = ["--vary", "data.seed=1,2"]
    assert sweep(tmp_path, "--vary", "data.batch_size=9", *seeds) == 0
    assert sweep(tmp_path, "--vary", "data.batch_size=9,18", *seeds) == 0
    first, second = starts(tmp_path)[:2], starts(tmp_path)[2:]
    assert sorted(first) == ["batch_size=9_seed=1", "batch_size=9_seed=2"]
    assert sorted(second) == ["batch_size=18_seed=1", "batch_size=18_seed=2"]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            ["--vary", "data.seed=1", "--data.image_size", "16"],
            "options.data.image_size is 'not given' there but '16' here",
        ),
        (["--vary", "training.seed=1"], "axes is ['data.seed']"),
        (["--vary", "data.seed=1", "--tiny"], "tiny is False"),
    ],
)
def test_another_sweep_in_the_same_directory_is_refused(
    tmp_path: Path, other: list[str], sentence: str, capsys
):
    assert sweep(tmp_path, "--vary", "data.seed=1") == 0
    capsys.readouterr()
    assert sweep(tmp_path, *other) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1
    assert len(starts(tmp_path)) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--vary", "data.seeds=1,2"],
        ["--vary", "data.seed=1", "--data.batch_sizes", "3"],
        ["--vary", "data.patch_size=3"],
        ["--vary", "data.seed=1", "--jobs", "0"],
        ["--vary", "data.seed=1", "--timeout", "nan"],
        ["--vary", "topology=cpu:1"],
        [],
    ],
)
def test_a_wrong_command_starts_and_writes_nothing(tmp_path: Path, arguments, capsys):
    assert sweep(tmp_path / "out", *arguments) == 2
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().err


def test_a_point_that_is_no_experiment_fails_without_a_process(tmp_path: Path):
    command = ["--vary", "data.patch_size=2,3", "--vary", "data.image_size=8,9"]
    assert sweep(tmp_path, *command) == 1
    assert sorted(starts(tmp_path)) == [
        "patch_size=2_image_size=8",
        "patch_size=3_image_size=9",
    ]
    kept = tmp_path / "points" / "patch_size=3_image_size=8" / "result.json"
    outcome = json.loads(kept.read_text())
    assert outcome["status"] == "failed" and outcome["exit_code"] is None
    assert "does not divide data.image_size 8" in outcome["error"]


def test_options_may_only_fit_together_with_the_varied_ones(tmp_path: Path):
    command = ["--data.image_size", "9", "--vary", "data.patch_size=3"]
    assert sweep(tmp_path, *command) == 0


def test_the_options_of_an_experiment_are_listed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["toy/demo", "--help"])
    assert stopped.value.code == 0
    assert "--mod.plan FILE|MAKER" in capsys.readouterr().out


def test_a_point_has_so_much_time(tmp_path: Path):
    assert sweep(tmp_path, *plays("slow", "well"), "--timeout", "3") == 1
    found = results(tmp_path)
    assert "raise --timeout" in found["slow"]["error"]
    assert found["well"]["status"] == "done"


def test_the_topology_can_be_an_axis(tmp_path: Path):
    axis = ["--vary", "topology=v5e:8x8,v5p:4x4x4"]
    assert sweep(tmp_path, *axis, compiles=False) == 0
    found = results(tmp_path)
    assert found["v5p-4x4x4"]["figures"]["topology"] == "v5p:4x4x4"


def test_runs_without_a_topology_are_short_runs_that_go_on(tmp_path: Path):
    command = [*plays("well", "saved"), "--vary", "data.batch_size=9"]
    assert sweep(tmp_path, *command, compiles=False) == 1
    well, saved = json.loads((tmp_path / "results.json").read_text())["points"]
    assert well["figures"]["loss"] == 0.9 and well["figures"]["step_seconds"] == 3.0
    assert saved["status"] == "missing"
    assert sweep(tmp_path, *command, compiles=False) == 1
    assert starts(tmp_path).count("name=saved_batch_size=9") == 2
    assert starts(tmp_path).count("name=well_batch_size=9") == 1


@pytest.mark.parametrize(
    ("given", "compiles", "wanted"),
    [
        ([], True, "--json compile_check.json --topology v5e:8x8 --data.seed 1"),
        (["--data.name", "well"], True, "--data.name well --data.seed 1"),
        ([], False, "--run-dir run --training.steps 20 --data.seed 1"),
        (["--training.steps", "7"], False, "--run-dir run --training.steps 7"),
        (["--vary", "training.steps=5"], False, "--run-dir run --data.seed 1"),
    ],
)
def test_a_process_gets_the_options_of_all_points_and_its_own(
    tmp_path: Path, given: list[str], compiles: bool, wanted: str
):
    assert sweep(tmp_path, "--vary", "data.seed=1", *given, compiles=compiles) == 0
    (point,) = tmp_path.glob("points/*/arguments.json")
    arguments = json.loads(point.read_text())
    assert arguments[0] == "toy/demo"
    named = " ".join(word.removeprefix(f"{point.parent}/") for word in arguments)
    assert wanted in named


class Page(HTMLParser):
    """Counts what a page has, and what it would have to fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        self.fetched += [
            value or ""
            for name, value in attributes
            if name in ("src", "href") and not (value or "").startswith(("data:", "#"))
        ]

    def handle_data(self, data):
        if self.rows and data.strip() and self.tags[-1] in ("td", "button"):
            self.rows[-1].append(data.strip())


def test_the_tables_and_the_report_show_every_point(tmp_path: Path):
    axes = ["--vary", "data.batch_size=9,18,27", *plays("well", "<b>", "refuses")]
    assert sweep(tmp_path, *axes) == 1
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(one["data.batch_size"], one["data.name"]) for one in lines] == [
        (rows, name)
        for rows in ("9", "18", "27")
        for name in ("well", "<b>", "refuses")
    ]
    assert lines[0]["bytes_per_chip.total"] == str(9e9)
    assert lines[2]["status"] == "failed" and lines[2]["bytes_per_chip.total"] == ""
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.tags.count("svg") == 7 and not page.fetched
    assert page.rows[0][:4] == [
        "data.batch_size",
        "data.name",
        "outcome",
        "GB per chip",
    ]
    assert page.rows[1][-1] == "chosen: --mesh.fsdp 64"
    assert page.rows[1][:5] == ["9", "well", "done", "9", "0.09"]
    assert page.rows[3][:4] == [
        "9",
        "refuses",
        "failed",
        "18 rows are too many; take 9.",
    ]
    assert len(page.rows) == 10
    assert "<b>" not in text


# --- The acceptance: stopped in the middle, resumed, reported -------------------------


def start(out: Path) -> subprocess.Popen:
    """A real process of the command: three times three points, two at once."""
    plans = "mod.plan=last_half:0.2,last_half:0.4,last_half:0.8"
    axes = (plans, "data.batch_size=9,18,27")
    options = [word for axis in axes for word in ("--vary", axis)]
    options += ["--data.name", "pause", "--jobs", "2", "--out", str(out)]
    return subprocess.Popen(
        [
            *(sys.executable, "-c", DRIVER, *STAND_IN),
            *("toy/demo", "--topology", "v5e:8x8", *options),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_is_stopped_in_the_middle_resumed_and_reported(
    tmp_path: Path, number: signal.Signals
):
    first = start(tmp_path)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("points/*/result.json"))) < 3:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(number)
    _, told = first.communicate(timeout=60)
    assert first.returncode == 75
    assert "run the same command again" in told and "Traceback" not in told
    kept = {path: path.read_text() for path in tmp_path.glob("points/*/result.json")}
    assert 3 <= len(kept) < 9
    assert all(json.loads(text)["status"] == "done" for text in kept.values())
    assert not list(tmp_path.rglob("*.partial"))
    for line in (tmp_path / "points" / "starts.txt").read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[1]), 0)
    assert re.search(
        rf"{9 - len(kept)} missing", (tmp_path / "report.html").read_text()
    )

    second = start(tmp_path)
    printed, told = second.communicate(timeout=60)
    assert second.returncode == 0
    assert f"{len(kept)} of 9 points have a result" in told
    assert all(path.read_text() == text for path, text in kept.items())
    began = starts(tmp_path)
    assert all(began.count(path.parent.name) == 1 for path in kept)
    assert len(set(began)) == 9
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [one["status"] for one in csv.DictReader(file)] == ["done"] * 9
    assert printed == f"{tmp_path / 'report.html'}\n"
    assert len(Page((tmp_path / "report.html").read_text()).rows) == 10
