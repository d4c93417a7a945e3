"""Line charts of a run's metrics as inline SVG, drawn to be read at any width."""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TASK_COLORS = {
    "text_to_image": "#0f7c80",
    "image_to_text": "#c2562d",
    "text_only": "#7b8088",
}
"""One colour per task, in every picture of the report."""

_OTHER_TASK = "#5b4a8a"
_INK, _GRID = "#5c6470", "#e6e4df"
_LINE_STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)))
_MOST_POINTS = 400
_RUN_COLORS = ("#1c232d", "#0f7c80", "#c2562d", "#5b4a8a", "#b8860b", "#3f7fbf")

CHART_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unimod_jax",
    "font.size": 8,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
}
"""Matplotlib's settings for every chart of a page."""


def task_color(task: str) -> str:
    """The colour of a task."""
    return TASK_COLORS.get(task, _OTHER_TASK)


def line_chart(
    steps: Sequence[float],
    series: Mapping[str, Sequence[float]],
    color: str,
    *,
    label: str,
    level: float | None = None,
) -> str:
    """One panel: each series faint as it was logged, and strong as a running mean.

    Args:
      steps: of all series.
      series: name -> values; the first is a solid line, the others are dashed.
      color: of all lines.
      label: what the values are, for readers who cannot see the chart.
      level: a value to mark by a thin line.

    Returns:
      An `<svg>` element.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(CHART_STYLE):
        figure = Figure(figsize=(3.7, 2.2), layout="constrained")
        axes = figure.add_subplot()
        smooth = {name: running_mean(values) for name, values in series.items()}
        shown = _thinned(len(steps))
        for (name, values), dash in zip(series.items(), _LINE_STYLES, strict=False):
            x, raw = np.asarray(steps)[shown], np.asarray(values)[shown]
            axes.plot(x, raw, color=color, alpha=0.22, linewidth=0.8)
            axes.plot(
                x, smooth[name][shown], color=color, linewidth=1.6, ls=dash, label=name
            )
        if level is not None:
            axes.axhline(level, color=_INK, linewidth=0.7, ls=(0, (2, 2)))
        highest = max([level or 0.0, *(float(np.max(s)) for s in smooth.values())])
        axes.set_ylim(0.0, 1.08 * highest or 1.0)
        axes.set_xlim(0, max(steps))
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.legend(loc="best", handlelength=2.2)
        return svg_text(figure, label)


def run_color(index: int) -> str:
    """The colour of one of several runs; the first has that of the ink."""
    return _RUN_COLORS[index % len(_RUN_COLORS)]


def run_chart(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    colors: Sequence[str],
    *,
    label: str,
    xlabel: str,
    dashed: bool = False,
) -> str:
    """One panel of curves that were measured at places of their own, unsmoothed.

    Args:
      curves: name -> (places, values).
      colors: one per curve.
      label: what the values are, for readers who cannot see the chart.
      xlabel: what the places are.
      dashed: whether all curves but the first are dashed, where they share a colour.

    Returns:
      An `<svg>` element.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(CHART_STYLE):
        figure = Figure(figsize=(3.7, 2.2), layout="constrained")
        axes = figure.add_subplot()
        for index, ((name, (x, y)), color) in enumerate(
            zip(curves.items(), colors, strict=True)
        ):
            dash = _LINE_STYLES[index % len(_LINE_STYLES)] if dashed else "-"
            more = {
                "ls": dash,
                "label": name.replace("$", r"\$"),
                "marker": "o",
                "markersize": 2,
            }
            axes.plot(x, y, color=color, linewidth=1.4, **more)
        axes.set_xlim(left=0)
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.legend(loc="best", handlelength=2.2)
        return svg_text(figure, label)


def running_mean(values: Sequence[float]) -> np.ndarray:
    """An exponential mean that remembers about a twentieth of the values."""
    memory = 1.0 - 1.0 / max(1.0, len(values) / 20)
    total = weight = 0.0
    means = []
    for value in values:
        total = memory * total + value
        weight = memory * weight + 1.0
        means.append(total / weight)
    return np.asarray(means)


def _thinned(count: int) -> np.ndarray:
    """Which of so many points to draw."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(int))


def svg_text(figure, label: str) -> str:
    """A matplotlib figure as an `<svg>` element that takes its page's size and font.

    Args:
      figure: drawn under `CHART_STYLE`.
      label: what it shows, for readers who cannot see it.
    """
    buffer = io.StringIO()
    blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=blank)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page sets the size and the font.
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    return svg.replace(
        "<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1
    ).strip()
