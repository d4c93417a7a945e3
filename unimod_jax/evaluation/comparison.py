"""Runs side by side: held-out losses, accuracies, FLOPs, seconds, and step matching.

The first run is the baseline: of each other run it is asked what share of the
baseline's steps, FLOPs and seconds it needs to reach the same losses.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimod_jax.evaluation.compared_run import ACCURACIES, AXES, ComparedRun
from unimod_jax.evaluation.figures import run_chart, run_color
from unimod_jax.evaluation.pages import render_page
from unimod_jax.evaluation.step_matching import match
from unimod_jax.layout import Task
from unimod_jax.training import RunError
from unimod_jax.training.run_directory import write_atomically

TEMPLATE = "comparison.html.jinja"

_MAY_DIFFER = {"batch_size", "seed", "directory", "codes_directory", "train_split"}
_MAY_DIFFER |= {"prompt_dropout", "judge"}
"""Options of the data that leave the held-out rows as they are."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
      runs: the baseline first.
      matching: one record for each other run and each loss that both have: "run",
        "loss", "matched", and for each of `AXES` the shares "slope" and "end_point".
      notes: sentences on what makes losses hard to compare.
    """

    runs: Sequence[ComparedRun]
    matching: Sequence[dict[str, Any]]
    notes: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """All of it, curves too, as JSON holds it."""
        return {
            "baseline": self.runs[0].name,
            "runs": [_record(run) for run in self.runs],
            "step_matching": list(self.matching),
            "notes": list(self.notes),
        }


def compare(paths: Sequence[Path]) -> Comparison:
    """Reads runs and matches each to the first.

    Args:
      paths: run directories with config.json and metrics.jsonl.

    Raises:
      RunError: for fewer than two, or one that has no held-out losses.
    """
    if len(paths) < 2:
        raise RunError(
            f"{len(paths)} run is given, but a comparison takes two or more; name the "
            "baseline first."
        )
    runs = [
        ComparedRun.read(path, name)
        for path, name in zip(paths, _names(paths), strict=True)
    ]
    baseline, *others = runs
    matching = [
        _matching(baseline, other, loss)
        for other in others
        for loss in baseline.loss_names
        if loss in other.loss_names
    ]
    return Comparison(runs, matching, _notes(baseline, others))


def write_page(comparison: Comparison, path: Path) -> None:
    """Writes the comparison as one HTML page, whole or not at all."""
    runs = comparison.runs
    names = dict.fromkeys(name for run in runs for name in run.loss_names)
    charts = [_chart(runs, name, "steps") for name in names]
    charts += [_chart(runs, "loss", axis) for axis in AXES[1:] if "loss" in names]
    contents = {
        **comparison.as_json(),
        "axes": AXES,
        "accuracies": ACCURACIES,
        "charts": charts,
        "colors": [run_color(index) for index in range(len(runs))],
        "date": time.strftime("%d %B %Y, %H:%M"),
    }
    write_atomically(path, render_page(TEMPLATE, contents))


def matching_lines(comparison: Comparison) -> list[str]:
    """Step matching as text, one line for each run and loss."""
    lines = []
    for record in comparison.matching:
        shares = ", ".join(
            f"{axis} {_share(record[axis]['slope'])} "
            f"(end {_share(record[axis]['end_point'])})"
            for axis in AXES
        )
        lines.append(f"{record['run']}  {record['loss']}: {shares}")
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _matching(baseline: ComparedRun, other: ComparedRun, loss: str) -> dict[str, Any]:
    record: dict[str, Any] = {"run": other.name, "loss": loss}
    for axis in AXES:
        found = match(baseline.curve(loss, axis), other.curve(loss, axis))
        record[axis] = {"slope": found.slope, "end_point": found.end_point}
        record["matched"] = found.matched
    return record


def _record(run: ComparedRun) -> dict[str, Any]:
    """A run as JSON holds it."""
    return {
        "name": run.name,
        "path": str(run.run.path),
        "objective": type(run.experiment.objective).__name__,
        "steps": run.steps,
        "flops_per_step": run.flops_per_step,
        "flops": run.steps * run.flops_per_step,
        "train_seconds": run.seconds,
        **{name: run.summary.get(name) for name in ACCURACIES},
        "held_out": {
            loss: {
                **{axis: list(run.curve(loss, axis).places) for axis in AXES},
                "losses": list(run.curve(loss, "steps").losses),
            }
            for loss in run.loss_names
        },
    }


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, or the paths where two folders have the same name."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return names


def _notes(baseline: ComparedRun, others: Sequence[ComparedRun]) -> list[str]:
    """What makes the losses of a run those of other rows than the baseline's."""
    notes = []
    for other in others:
        differing = _differences(baseline, other)
        if differing:
            notes.append(
                f"{other.name} and {baseline.name} differ in {', '.join(differing)}: "
                "their held-out losses are of other rows."
            )
        elif missing := set(baseline.loss_names) ^ set(other.loss_names):
            notes.append(
                f"{other.name} and {baseline.name} do not both have "
                f"{', '.join(sorted(missing))}."
            )
    return notes


def _differences(one: ComparedRun, other: ComparedRun) -> list[str]:
    data = [dataclasses.asdict(run.experiment.data) for run in (one, other)]
    differing = [
        f"data.{name}"
        for name, value in data[0].items()
        if name not in _MAY_DIFFER and value != data[1][name]
    ]
    tasks = [_rows_of(run) for run in (one, other)]
    both = tasks[0].keys() & tasks[1].keys()
    differing += sorted(f"tasks.{n}" for n in both if tasks[0][n] != tasks[1][n])
    rows = [run.experiment.training.held_out_rows for run in (one, other)]
    if rows[0] != rows[1]:
        differing.append("training.held_out_rows")
    objectives = [type(run.experiment.objective).__name__ for run in (one, other)]
    if objectives[0] != objectives[1]:
        differing.append("objective")
    files = [run.run.tokenizer for run in (one, other)]
    if all(file.exists() for file in files):
        texts = [file.read_bytes() for file in files]
        if texts[0] != texts[1]:
            differing.append("tokenizer.json")
    return differing


def _rows_of(run: ComparedRun) -> dict[str, Task]:
    """Task -> what its rows are, whatever their share and weight, if it is trained."""
    tasks = (task for task in run.experiment.tasks if task.share)
    return {t.name: dataclasses.replace(t, share=1, loss_weight=1.0) for t in tasks}


def _chart(runs: Sequence[ComparedRun], loss: str, axis: str) -> dict[str, str]:
    curves = {
        run.name: (run.curve(loss, axis).places, run.curve(loss, axis).losses)
        for run in runs
        if loss in run.loss_names
    }
    colors = [run_color(i) for i, run in enumerate(runs) if loss in run.loss_names]
    title = loss.replace("_", " ").replace("/", ", ")
    if axis != AXES[0]:
        title = f"{title} over {axis}"
    svg = run_chart(curves, colors, label=f"held-out {title}", xlabel=axis)
    return {"title": title, "svg": svg}
