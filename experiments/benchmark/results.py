"""A results file: where and when it was measured, its records and its figures.

One JSON object with `figures` (dotted name -> number) and `records` (flat objects), as
`python -m experiments.benchmark --json` writes it.
"""

import importlib.metadata
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.goals import GOALS
from experiments.benchmark.suite import Record

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def machine() -> dict[str, Any]:
    """The processor, its cores, and the versions of what did the work."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    names = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
    return next(names, "unknown").strip()


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Writes a results file, whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def read_results(path: Path) -> dict[str, Any]:
    """Reads a results file.

    Raises:
      ValueError: if it is no results file.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from None
    if not isinstance(results, dict) or not isinstance(results.get("figures"), dict):
        raise ValueError(
            f"{path} has no figures; give a file that "
            f"`python -m experiments.benchmark --json` wrote."
        )
    return results


def text_table(figures: Mapping[str, float], records: Sequence[Record]) -> str:
    """Figures beside their goals, then the absolutes of every step that was timed."""
    lines = []
    for name, figure in figures.items():
        goal = GOALS.get(name)
        verdict = ""
        if goal is not None:
            verdict = f"   goal {goal}: {'met' if goal.is_met(figure) else 'missed'}"
        lines.append(f"{name:<48}{figure:>9.3f}{verdict}")
    timed = [record for record in records if "step_seconds" in record]
    if timed:
        lines.append("")
    for record in timed:
        label = " ".join(
            str(record[key])
            for key in ("suite", "system", "rows", "pipeline", "start", "contender")
            if key in record
        )
        lines.append(f"{label:<48}{1e3 * record['step_seconds']:>9.1f} ms a step")
    return "\n".join(lines)


def markdown_table(figures: Mapping[str, float]) -> str:
    """The figures that have goals, as README shows them."""
    lines = ["| figure | what it is | measured | goal |", "|---|---|---|---|"]
    for name, goal in GOALS.items():
        if name in figures:
            figure = figures[name]
            shown = f"{figure:.3f}" if goal.is_met(figure) else f"{figure:.3f} (missed)"
            lines.append(f"| `{name}` | {goal.meaning} | {shown} | {goal} |")
    return "\n".join(lines)


def with_table(text: str, source: str, figures: Mapping[str, float]) -> str:
    """A text whose generated table is that of a results file.

    Args:
      text: with a line `<!-- benchmark: ... -->` before the table and a line
        `<!-- end of benchmark -->` after it.
      source: the file that the figures are from, named in the first line.
      figures: of that file.

    Raises:
      ValueError: if the two lines are not there.
    """
    table = f"<!-- benchmark: {source} -->\n{markdown_table(figures)}\n"
    pattern = r"<!-- benchmark: .*? -->\n.*?(?=<!-- end of benchmark -->)"
    replaced, count = re.subn(pattern, lambda _: table, text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(
            "the text has no place for the table; put a line `<!-- benchmark: - -->` "
            "and a line `<!-- end of benchmark -->` where it should stand."
        )
    return replaced
