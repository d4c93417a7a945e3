"""What the README prints is what runs."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_library_example_runs_as_printed(capsys: pytest.CaptureFixture[str]):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    statements = [line for line in example.splitlines() if line and line[0] != " "]
    assert len(statements) <= 16
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    loss = float(printed.split()[0])
    assert 3.0 < loss < 8.0
    assert "True" in printed and "False" in printed


def test_every_file_of_the_table_exists():
    root = Path(__file__).resolve().parents[1]
    cells = re.findall(r"`((?:unimod_jax|pallas_kernels)/[^`]*)`", README)
    assert len(cells) > 15
    for cell in cells:
        folder, braces, names = cell.partition("{")
        files = (
            [folder + name + ".py" for name in names.partition("}")[0].split(",")]
            if braces
            else [cell]
        )
        for file in files:
            assert (root / file).exists(), file
