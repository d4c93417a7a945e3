"""The report of a run: one HTML file with everything inside, written by `evaluate`."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unimod_jax.evaluation.figures import line_chart, run_chart, task_color
from unimod_jax.evaluation.measurement import Evaluation
from unimod_jax.evaluation.pages import render_page, words
from unimod_jax.evaluation.report_sections import (
    drawing_section,
    routing_section,
    text_section,
    twin_section,
)
from unimod_jax.layout import IMAGE, Task
from unimod_jax.mod import LayerPlan
from unimod_jax.training.held_out import PREFIX
from unimod_jax.training.metric_writer import read_metrics
from unimod_jax.training.run_directory import experiment_to_json, write_atomically

TEMPLATE = "report.html.jinja"
_KEPT = re.compile(r"kept/layer_\d+/([^/]+)/([^/]+)")


def write_report(evaluation: Evaluation, summary: Mapping[str, Any]) -> None:
    """Writes report.html into the run directory.

    Args:
      evaluation: what was measured.
      summary: its numbers, from `summary.summarize`.
    """
    page = render_page(TEMPLATE, contents(evaluation, summary), task_color=task_color)
    write_atomically(evaluation.trained.run.report, page)


def contents(evaluation: Evaluation, summary: Mapping[str, Any]) -> dict[str, Any]:
    """All that the template shows."""
    trained = evaluation.trained
    experiment = trained.experiment
    rows = read_metrics(trained.run.metrics) if trained.run.metrics.exists() else []
    config = json.loads(experiment_to_json(experiment))
    config["tasks"] = {task.name: _in_words(task) for task in experiment.tasks}
    return {
        "name": trained.run.path.resolve().name,
        "objective": _spaced(type(experiment.objective).__name__),
        "data_set": experiment.data.name,
        "date": time.strftime("%d %B %Y, %H:%M"),
        "summary": summary,
        "losses": _loss_charts(rows),
        "held_out_losses": _held_out_charts(rows),
        "kept": _kept_charts(rows, experiment.mod.plan),
        "drawings": [
            drawing_section(piece, evaluation.judge_accuracy)
            for piece in evaluation.pieces
            if piece.modality == IMAGE
        ],
        "texts": [
            text_section(piece, evaluation.judge_accuracy)
            for piece in evaluation.pieces
            if piece.modality != IMAGE
        ],
        "tasks": list(trained.assembly.layouts),
        "routing": routing_section(evaluation),
        "twin": twin_section(evaluation.twin),
        "test_split": experiment.data.test_split,
        "config": _config_groups(config),
        "sampling": experiment.sampling,
    }


def _loss_charts(rows: Sequence[Mapping[str, float]]) -> list[dict[str, str]]:
    """One chart per task, with a line per modality."""
    names = list(rows[-1]) if rows else []
    charts = []
    for task in _tasks_of(names):
        parts = {
            name.split("/")[1].removesuffix("_loss"): [name]
            for name in sorted(names)
            if name.startswith(f"{task}/") and name.endswith("_loss")
        }
        charts.append(_chart(rows, task, parts, f"losses of {words(task)}"))
    return charts


def _tasks_of(names: Sequence[str]) -> list[str]:
    """The tasks that have a loss "<task>/loss" among these names."""
    found = [name.removesuffix("/loss") for name in names if name.endswith("/loss")]
    tasks = [task for task in found if "/" not in task and f"{task}/" != PREFIX]
    return sorted(tasks, key=lambda task: ("text_to" not in task, task))


def _held_out_charts(rows: Sequence[Mapping[str, float]]) -> list[dict[str, str]]:
    """One chart per task of its held-out losses, as they were measured."""
    rows = [row for row in rows if f"{PREFIX}loss" in row]
    names = [n.removeprefix(PREFIX) for n in (rows[-1] if rows else ()) if PREFIX in n]
    charts = []
    for task in _tasks_of(names):
        parts = [n for n in names if n.startswith(f"{task}/") and n.endswith("_loss")]
        curves = {}
        for part in sorted(parts):
            measured = [row for row in rows if PREFIX + part in row]
            curves[part.split("/")[1].removesuffix("_loss")] = (
                [row["step"] for row in measured],
                [row[PREFIX + part] for row in measured],
            )
        label = f"held-out losses of {words(task)}"
        colors = [task_color(task)] * len(curves)
        svg = run_chart(curves, colors, label=label, xlabel="step", dashed=True)
        charts.append({"task": task, "svg": svg})
    return charts


def _kept_charts(
    rows: Sequence[Mapping[str, float]], plan: LayerPlan
) -> list[dict[str, str]]:
    """One chart per routed task: the share of tokens kept by stream, all layers.

    The line is what the plan keeps in the layers that keep any.
    """
    asked = {
        of_task.task: [ratio for ratio in of_task.keep_ratios if ratio]
        for of_task in plan
    }
    found = [
        match for name in (rows[-1] if rows else ()) if (match := _KEPT.match(name))
    ]
    charts = []
    for task in sorted({match[1] for match in found}, reverse=True):
        parts: dict[str, list[str]] = {}
        for match in found:
            if match[1] == task:
                parts.setdefault(match[2], []).append(match[0])
        label = f"share of tokens kept in {words(task)}"
        level = float(np.mean(asked[task])) if asked.get(task) else None
        charts.append(_chart(rows, task, parts, label, level=level))
    return charts


def _chart(
    rows: Sequence[Mapping[str, float]],
    task: str,
    parts: Mapping[str, Sequence[str]],
    label: str,
    level: float | None = None,
) -> dict[str, str]:
    """A chart of one line per part: the mean of its metrics."""
    needed = [name for names in parts.values() for name in names]
    rows = [row for row in rows if all(name in row for name in needed)]
    series = {
        part: [float(np.mean([row[name] for name in names])) for row in rows]
        for part, names in parts.items()
    }
    steps = [row["step"] for row in rows]
    svg = line_chart(steps, series, task_color(task), label=label, level=level)
    return {"task": task, "svg": svg}


def _config_groups(
    config: Mapping[str, Any],
) -> list[tuple[str, list[tuple[str, str]]]]:
    """The experiment's parts that it has, each with its fields and values as text."""

    def fields(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
        found = []
        for name, value in tree.items():
            if isinstance(value, dict):
                found += fields(value, f"{prefix}{name}.")
            else:
                text = value if isinstance(value, str) else json.dumps(value)
                found.append((prefix + name, text))
        return found

    return [(name, fields(tree)) for name, tree in config.items() if tree is not None]


def _in_words(task: Task) -> str:
    """A task in a line: its rows and what it counts."""
    row = " ".join(piece.name for piece in task.pieces) or "documents"
    return f"{row}; share {task.share}, loss weight {task.loss_weight}"


def _spaced(name: str) -> str:
    """A class name in words: MaskedImage is "masked image"."""
    return " ".join(np.char.lower(re.findall(r"[A-Z][a-z]*", name)))
