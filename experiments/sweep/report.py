"""The report of a sweep: one HTML file with its table and charts inside."""

import importlib.resources
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.sweep.charts import chart
from experiments.sweep.directory import SweepDirectory
from experiments.sweep.measurement import Measurement, Outcome, Shown
from experiments.sweep.plan import Point
from experiments.sweep.tables import MISSING, Rows, figure_names
from unimod_jax.training.run_directory import write_atomically

TEMPLATE = "report.html.jinja"


def write_report(
    directory: SweepDirectory,
    identity: Mapping[str, Any],
    rows: Rows,
    measurement: Measurement,
) -> None:
    """Writes report.html.

    Args:
      directory: of the sweep.
      identity: what is swept.
      rows: all points.
      measurement: what was done at each, and which of its figures to show.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = importlib.resources.files(__package__).joinpath(TEMPLATE)
    page = environment.from_string(source.read_text(encoding="utf-8"))
    shown = [
        one
        for one in measurement.shown(figure_names(rows))
        if any(outcome and one.figure in outcome.figures for _, outcome in rows)
    ]
    statuses = [outcome.status if outcome else MISSING for _, outcome in rows]
    write_atomically(
        directory.report,
        page.render(
            name=identity["experiment"],
            identity=identity,
            measurement=measurement.name,
            date=time.strftime("%d %B %Y, %H:%M"),
            counts={name: statuses.count(name) for name in dict.fromkeys(statuses)},
            points=len(rows),
            axes=list(rows[0][0].values),
            columns=[one.title for one in shown],
            rows=[_row(point, outcome, shown, measurement) for point, outcome in rows],
            charts=[
                {"title": one.title, "svg": svg}
                for one in shown
                if (svg := chart(rows, one)) is not None
            ],
        ),
    )


def _row(
    point: Point,
    outcome: Outcome | None,
    shown: Sequence[Shown],
    measurement: Measurement,
) -> dict[str, Any]:
    """A row of the table: cells as they are read, beside what they are sorted by."""
    figures = outcome.figures if outcome else {}
    values = [one.value(figures) for one in shown]
    return {
        "values": [_cell(value) for value in point.values.values()],
        "status": outcome.status if outcome else MISSING,
        "figures": [
            {"text": "" if value is None else _readable(value), "key": value}
            for value in values
        ],
        "note": (outcome and outcome.error) or measurement.note(figures),
    }


def _cell(text: str) -> dict[str, Any]:
    """A value of an axis; numbers are sorted as such."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    return {"text": text, "key": number if math.isfinite(number) else text}


def _readable(value: float) -> str:
    """Four digits, without an exponent where that can be read."""
    if 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}"
