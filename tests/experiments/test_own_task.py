"""A task in an experiment file outside the repository: that of docs/own_tasks.md."""

import json
import re
from pathlib import Path

import pytest

from experiments import evaluate, sample, train

PAGE = Path(__file__).parents[2] / "docs" / "own_tasks.md"
OWN_TASK, OWN_JUDGE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page's two files in a folder of their own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_task.py").write_text(OWN_TASK)
    (folder / "judges.py").write_text(OWN_JUDGE)
    return folder


def options(folder: Path) -> list[str]:
    judge = f"{folder / 'judges.py'}:make"
    return ["--data.directory", str(folder / "data"), "--data.judge", judge]


def test_a_task_of_ones_own_trains_and_writes_and_is_judged(folder: Path, capsys):
    run = folder / "run"
    file = str(folder / "own_task.py")
    train.main([file, "--run-dir", str(run), *options(folder)])
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 20
    kept = [value for name, value in last.items() if "/naming/" in name]
    assert last["naming/loss"] < 6.0 and any(0.0 < share < 1.0 for share in kept)
    scan = folder / "scan.png"
    _write_scan(scan)
    capsys.readouterr()
    sample.main([str(run), "--part", f"scan={scan}", "--task", "naming"])
    assert capsys.readouterr().out.startswith("name: ")
    evaluate.main([str(run), "--rows", "40", "--twin-seconds", "0"])
    summary = json.loads((run / "summary.json").read_text())
    assert summary["rows_written"] == {"naming/name": 40}
    assert 0.0 <= summary["accuracy"]["naming/name"] <= 1.0
    assert summary["judge_accuracy"] == {"text": 1.0}
    assert (run / "report.html").exists()


def test_a_task_that_there_is_not_is_refused(folder: Path, capsys):
    file = folder / "misspelt.py"
    file.write_text(OWN_TASK.replace('same_for(("naming"', 'same_for(("nameing"'))
    with pytest.raises(SystemExit):
        train.main([str(file), "--run-dir", str(folder / "other"), *options(folder)])
    assert "did you mean 'naming'?" in capsys.readouterr().err
    assert not (folder / "other").exists()


def _write_scan(path: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(path)
