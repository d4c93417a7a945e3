"""A short training run at every point: `python -m experiments.train`.

Its figures are the last row of its metrics.jsonl; seconds and rates are the medians of
all rows but the first, which has the compilation in it.
"""

import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.sweep.measurement import Measurement, Outcome, Shown, failure, flat
from experiments.sweep.plan import Axis, Point, options_by_name
from experiments.sweep.processes import Ended
from unimod_jax.training import RunDirectory
from unimod_jax.training.metric_writer import read_metrics

PROGRAM = (sys.executable, "-m", "experiments.train")
STEPS = 20
"""Of a short run, unless the command says otherwise."""

_RUN_AGAIN = (75, 76)
"""Exit codes of a run that saved, or lost another process, and has to go on."""

_MEDIANS = ("step_seconds", "tokens_per_second", "input_wait_share")
_KEPT = re.compile(r"kept/layer_\d+/(.+)")
_MOST_SHOWN = 12


def short_run_options(options: Sequence[str], axes: Sequence[Axis]) -> list[str]:
    """The options of all points, with `STEPS` where nobody says how many.

    Args:
      options: of the command line.
      axes: of the sweep.
    """
    given = {*options_by_name(options), *(axis.name for axis in axes)}
    steps = [] if "training.steps" in given else ["--training.steps", str(STEPS)]
    return [*steps, *options]


def short_runs(
    experiment: str, options: Sequence[str], program: Sequence[str] = PROGRAM
) -> Measurement:
    """The measurement of a sweep of short runs.

    Args:
      experiment: name or file.
      options: those of all points.
      program: what trains; it is given the experiment, `--run-dir DIR` and options.
    """

    def command(point: Point, folder: Path) -> list[str]:
        run_dir = ["--run-dir", str(_run(folder).path)]
        return [*program, experiment, *run_dir, *options, *point.options]

    return Measurement("short run", command, _read, _summary, _shown, goes_on=True)


def _run(folder: Path) -> RunDirectory:
    return RunDirectory(folder / "run")


def _read(ended: Ended, folder: Path, log: Path) -> Outcome | None:
    if ended.exit_code in _RUN_AGAIN and not ended.timed_out:
        return None
    if ended.exit_code or ended.timed_out:
        return failure(ended, log)
    metrics = _run(folder).metrics
    rows = read_metrics(metrics) if metrics.exists() else []
    rows = [row for row in rows if isinstance(row, dict) and "loss" in row]
    if not rows:
        return failure(ended, log, f"it ended well but wrote no loss to {metrics}.")
    seconds = round(ended.seconds, 3)
    return Outcome("done", _figures(rows), None, ended.exit_code, seconds)


def _figures(rows: Sequence[Mapping[str, float]]) -> dict[str, float | bool | str]:
    """The last row, medians where one row says little, and kept shares by stream."""
    figures = dict(rows[-1])
    for name in _MEDIANS:
        values = [row[name] for row in rows[1:] or rows if name in row]
        if values:
            figures[name] = statistics.median(values)
    kept: dict[str, list[float]] = {}
    for name, value in rows[-1].items():
        if match := _KEPT.fullmatch(name):
            kept.setdefault(f"kept/{match[1]}", []).append(value)
    figures |= {name: statistics.mean(values) for name, values in kept.items()}
    return flat(figures)


def _summary(figures: Mapping[str, Any]) -> str:
    parts = [f"loss {figures['loss']:.4g}"] if "loss" in figures else []
    if "step_seconds" in figures:
        parts.append(f"{figures['step_seconds']:.3g} s a step")
    return ", ".join(parts) or "no finite loss"


def _shown(names: Sequence[str]) -> list[Shown]:
    """Losses, seconds, rate and kept shares, as far as there are any."""
    tasks = sorted(name for name in names if name.endswith("/loss"))
    kept = sorted(x for x in names if x.startswith("kept/") and not _KEPT.fullmatch(x))
    shown = [
        Shown("loss", "loss"),
        Shown("step_seconds", "seconds per step"),
        Shown("tokens_per_second", "tokens per second"),
        *(Shown(name, f"loss of {_in_words(name[:-5])}") for name in tasks),
        *(Shown(name, f"kept of {_in_words(name[5:])}") for name in kept),
    ]
    return [one for one in shown if one.figure in names][:_MOST_SHOWN]


def _in_words(name: str) -> str:
    return name.replace("_", " ").replace("/", ", ")
