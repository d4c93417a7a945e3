"""All points of a sweep as results.csv and results.json."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.sweep.directory import SweepDirectory, record
from experiments.sweep.measurement import Outcome
from experiments.sweep.plan import Point
from unimod_jax.training.run_directory import write_atomically

MISSING = "missing"
"""The status of a point that has not been run, or not to its end."""

type Rows = Sequence[tuple[Point, Outcome | None]]
"""Points in their order, and what came of them as far as is known."""


def write_tables(
    directory: SweepDirectory, identity: Mapping[str, Any], rows: Rows
) -> None:
    """Writes both files, each whole or not at all.

    Args:
      directory: of the sweep.
      identity: what is swept.
      rows: all points.
    """
    records = [_record(point, outcome) for point, outcome in rows]
    results = {"sweep": identity, "points": records}
    write_atomically(directory.json, json.dumps(results, indent=1) + "\n")
    write_atomically(directory.csv, _csv(rows))


def figure_names(rows: Rows) -> list[str]:
    """The figures that any point has, each once, as the points have them."""
    names = [name for _, outcome in rows if outcome for name in outcome.figures]
    return list(dict.fromkeys(names))


def _record(point: Point, outcome: Outcome | None) -> dict[str, Any]:
    if outcome is not None:
        return record(point, outcome)
    return {"point": point.name, "values": dict(point.values), "status": MISSING}


def _csv(rows: Rows) -> str:
    """One line per point: its values, its outcome, and every figure there is."""
    figures = figure_names(rows)
    axes = list(rows[0][0].values)
    told = ["status", "exit_code", "seconds", "error"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["point", *axes, *told, *figures])
    for point, outcome in rows:
        one = _record(point, outcome)
        found = one.get("figures", {})
        writer.writerow(
            [
                point.name,
                *point.values.values(),
                *(one.get(name) for name in told),
                *(found.get(name) for name in figures),
            ]
        )
    return text.getvalue()
