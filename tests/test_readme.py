"""What the README prints is what runs."""

import re
from pathlib import Path

import pytest

from experiments.accounting import account
from experiments.benchmark.results import read_results, with_table
from experiments.command_line import experiment_names
from unimod_jax.presets import PRESETS, VARIANTS, preset

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
            assert (ROOT / file).exists(), file


def test_every_published_system_stands_in_the_table():
    published = [name for name in experiment_names() if not name.startswith("toy/")]
    assert len(published) > 25
    assert [name for name in published if f"`{name}`" not in README] == []
    for number, things in ((len(PRESETS), "presets"), (len(VARIANTS), "variants")):
        assert f"{number} {things}" in README


def test_every_proof_of_the_table_is_a_test():
    proofs = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", README)
    assert len(proofs) > 20
    for file, name in proofs:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {name}(" in source if name else "def test_" in source, (file, name)


@pytest.mark.parametrize(
    "row", re.findall(r"\| `(\w+) --variant (\w+)` \|(.*)\|(.*)\|(.*)\|", README)
)
def test_the_costs_are_those_that_the_command_prints(row):
    name, variant, sizes, linear, head = (cell.strip() for cell in row)
    found = account(preset(name), variant)
    count, change = found["parameters"], found["flops_change_vs_dense"]["mean"]
    billions = [f"{count[kind] / 1e9:.2f}B" for kind in ("total", "activated")]
    assert sizes.split(", ") == billions
    for printed, convention in ((linear, "linear_only"), (head, "with_head")):
        assert abs(float(printed) - change[convention]) < 0.0005


def test_the_performance_table_is_that_of_its_results_file():
    (source,) = re.findall(r"<!-- benchmark: (.*?) -->", README)
    figures = read_results(ROOT / source)["figures"]
    assert with_table(README, source, figures) == README
    assert len(figures) > 12
