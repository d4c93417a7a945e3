"""A figure over the varied axes as inline SVG: one axis along x, the others as lines.

Points that do not fit are crosses, and the limit that they break is a dotted line.
"""

import itertools
import math
from collections.abc import Sequence

from experiments.sweep.measurement import Outcome, Shown
from experiments.sweep.plan import Point
from experiments.sweep.tables import Rows
from unimod_jax.evaluation.figures import CHART_STYLE, svg_text

_COLORS = ("#1e3e6e", "#c2562d", "#0f7c80", "#5b4a8a", "#9a7b1c", "#7b8088")
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
_LEVEL, _CROSS = "#5c6470", "#b3261e"
_MOST_IN_LEGEND = 12
_LOG_FROM = 16.0
"""Ratio of the largest to the smallest value from which x is logarithmic."""


def axis_along_x(points: Sequence[Point]) -> str:
    """The axis with the most values among the numeric ones, or among all."""
    values = {
        name: list(dict.fromkeys(point.values[name] for point in points))
        for name in points[0].values
    }
    return max(values, key=lambda name: (_numbers(values[name]), len(values[name])))


def _numbers(values: Sequence[str]) -> bool:
    """Whether there are several values, all of them numbers."""
    try:
        return len(values) > 1 and all(math.isfinite(float(x)) for x in values)
    except ValueError:
        return False


def chart(rows: Rows, shown: Shown) -> str | None:
    """One panel: a figure of all points that have it.

    Args:
      rows: points and what came of them.
      shown: the figure.

    Returns:
      An `<svg>` element; None if no point has the figure.
    """
    known = [
        (point, outcome, value)
        for point, outcome in rows
        if outcome and (value := shown.value(outcome.figures)) is not None
    ]
    if not known:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    along = axis_along_x([point for point, _ in rows])
    ticks = list(dict.fromkeys(point.values[along] for point, _ in rows))
    numeric = _numbers(ticks)
    places = {tick: float(tick) if numeric else at for at, tick in enumerate(ticks)}
    with matplotlib.rc_context(CHART_STYLE):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        lines = _lines(known, along)
        looks = itertools.product(_DASHES, _COLORS)
        for (label, line), (dash, color) in zip(
            lines.items(), itertools.cycle(looks), strict=False
        ):
            _draw(axes, line, along, places, label, color=color, ls=dash)
        found = {shown.limit(outcome.figures) for _, outcome, _ in known}
        limits = [limit for limit in found if limit is not None]
        for limit in limits:
            axes.axhline(limit, color=_LEVEL, linewidth=0.8, ls=(0, (2, 2)))
        _scale_x(axes, places, numeric)
        heights = [0.0, *(value for *_, value in known), *limits]
        axes.set_ylim(1.08 * min(heights), 1.08 * max(heights) or 1.0)
        axes.set_xlabel(_plain(along))
        if 1 < len(lines) <= _MOST_IN_LEGEND:
            axes.legend(loc="best", handlelength=2.0, fontsize=7)
        return svg_text(figure, f"{shown.title} over {along}")


type _Known = tuple[Point, Outcome, float]


def _lines(known: Sequence[_Known], along: str) -> dict[str, list[_Known]]:
    """Label of all other values -> the points that have them."""
    lines: dict[str, list[_Known]] = {}
    for one in known:
        others = [
            f"{name.rpartition('.')[2]} {value}"
            for name, value in one[0].values.items()
            if name != along
        ]
        lines.setdefault(", ".join(others), []).append(one)
    return lines


def _draw(axes, line: Sequence[_Known], along: str, places, label: str, **look) -> None:
    """One line and its markers, from left to right."""
    at = {point.name: places[point.values[along]] for point, _, _ in line}
    line = sorted(line, key=lambda one: at[one[0].name])
    x = [at[point.name] for point, _, _ in line]
    y = [value for _, _, value in line]
    axes.plot(x, y, marker="o", ms=3.5, linewidth=1.3, label=_plain(label), **look)
    crossed = [i for i, (_, outcome, _) in enumerate(line) if outcome.status != "done"]
    axes.plot(
        [x[i] for i in crossed],
        [y[i] for i in crossed],
        color=_CROSS,
        ls="",
        marker="x",
        ms=8,
        zorder=3,
    )


def _scale_x(axes, places: dict[str, float], numeric: bool) -> None:
    """Every value gets its tick; numbers far apart stand on a logarithmic scale."""
    from matplotlib.ticker import NullLocator

    low, high = min(places.values()), max(places.values())
    if numeric and low > 0 and high / low >= _LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    elif not numeric:
        axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xticks(list(places.values()), [_plain(tick) for tick in places])


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
