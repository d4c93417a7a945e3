"""A sweep's directory: what is where, and the refusal to mix two sweeps in one.

sweep.json               what is swept: experiment, topology, axes, configuration
points/NAME/result.json  what came of a point, written whole or not at all
points/NAME/log.txt      what its process wrote
points/NAME/run          of a short run: its run directory
results.csv, results.json, report.html
"""

import contextlib
import csv
import fcntl
import importlib.resources
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax import traverse_util

from experiments.sweep.measurement import Outcome, Shown, shown
from experiments.sweep.points import Point
from unimod_jax.evaluation.figures import CHART_STYLE, svg_text
from unimod_jax.training import RunError
from unimod_jax.training.run_directory import write_atomically

_TOLD = ("status", "exit_code", "seconds", "error")
_COLORS = ("#1e3e6e", "#c2562d", "#0f7c80", "#5b4a8a", "#9a7b1c", "#7b8088")
_MOST_IN_LEGEND = 12


class SweepDirectory(NamedTuple):
    """What is read and written in a sweep's directory."""

    path: Path

    def folder(self, point: Point) -> Path:
        """Of a point's own."""
        return self.path / "points" / point.name

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Writes what is swept, or checks that it is what was swept here before.

        Args:
          identity: a JSON object; `configuration` has the experiment before options.

        Raises:
          RunError: naming what differs, or that the directory is something else.
        """
        file, others = self.path / "sweep.json", "choose another --out"
        if not file.exists():
            if self.path.exists() and any(self.path.iterdir()):
                what = "is not empty and not the directory of a sweep"
                raise RunError(f"{self.path} {what}; {others}.")
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(identity, indent=2) + "\n")
        try:
            there = _by_name(file.read_text(encoding="utf-8"))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RunError(f"{file} cannot be read; restore it or {others}.") from None
        here, none = _by_name(json.dumps(identity)), "'not given'"
        if differing := "; ".join(
            f"{x} is {there.get(x, none)} there but {here.get(x, none)} here"
            for x in sorted({name for name, _ in there.items() ^ here.items()})
        ):
            raise RunError(
                f"{self.path} belongs to another sweep ({differing}); {others}, or "
                "give the same options."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Keeps other sweeps out of a claimed directory; yields the lock's descriptor.

        A process that inherits it keeps them out for as long as it lives.

        Raises:
          RunError: if another sweep, or what is left of one, is at work here.
        """
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"another sweep, or a process that one left behind, is at work in "
                    f"{self.path}; wait for it, or stop it."
                ) from None
            yield lock.fileno()

    def write(self, point: Point, outcome: Outcome) -> None:
        """Keeps what came of a point."""
        self.folder(point).mkdir(parents=True, exist_ok=True)
        text = json.dumps(_record(point, outcome), indent=2, allow_nan=False) + "\n"
        write_atomically(self.folder(point) / "result.json", text)

    def read(self, point: Point) -> Outcome:
        """What came of a point; missing if it is not known, or was that of another."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads((self.folder(point) / "result.json").read_text("utf-8"))
            if kept["values"] == point.values:
                return Outcome(*(kept[name] for name in Outcome._fields))
        return Outcome("missing", {}, seconds=None)

    def report(self, identity: Mapping[str, Any], points: Sequence[Point]) -> Path:
        """Writes tables and the page of all points, each whole; returns the page."""
        found = [_record(point, self.read(point)) for point in points]
        names = list(dict.fromkeys(name for one in found for name in one["figures"]))
        table = io.StringIO()
        head = ["point", *identity["axes"], *_TOLD, *names]
        writer = csv.DictWriter(table, head, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(one | one["values"] | one["figures"] for one in found)
        results = json.dumps({"sweep": identity, "points": found}, indent=1) + "\n"
        write_atomically(self.path / "results.csv", table.getvalue())
        write_atomically(self.path / "results.json", results)
        page = _page(identity, found, shown(names))
        write_atomically(self.path / "report.html", page)
        return self.path / "report.html"


def _record(point: Point, outcome: Outcome) -> dict[str, Any]:
    return {"point": point.name, "values": point.values, **outcome._asdict()}


def _by_name(identity: str) -> dict[str, str]:
    """What is in a JSON object, by dotted names; the configuration's are its own."""
    tree = json.loads(identity)
    flat = traverse_util.flatten_dict(tree | tree.pop("configuration"), sep=".")
    return {name: repr(value) for name, value in flat.items()}


def _page(identity: Mapping[str, Any], points: Any, columns: Sequence[Shown]) -> str:
    import jinja2

    source = importlib.resources.files(__package__).joinpath("report.html.jinja")
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    statuses = [one["status"] for one in points]
    return page.from_string(source.read_text(encoding="utf-8")).render(
        identity=identity,
        date=time.strftime("%d %B %Y, %H:%M"),
        counts={status: statuses.count(status) for status in dict.fromkeys(statuses)},
        points=points,
        columns=columns,
        charts=[_chart(points, identity["axes"], one) for one in columns],
        readable=lambda x: f"{x:,.0f}" if 1e4 <= abs(x) < 1e9 else f"{x:.4g}",
    )


def _chart(points: Any, names: Sequence[str], one: Shown) -> str:
    """The axis with the most values along x, a line per setting of the others."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    values = {
        x: [*dict.fromkeys(point["values"][x] for point in points)] for x in names
    }
    along = max(values, key=lambda x: len(values[x]))
    lines: dict[str, list[Any]] = {}
    for point in points:
        if one.value(point["figures"]) is not None:
            others = [(k.rpartition(".")[2], point["values"][k]) for k in names]
            others.pop(names.index(along))
            lines.setdefault(", ".join(map(" ".join, others)), []).append(point)
    with rc_context(CHART_STYLE | {"text.parse_math": False}):
        figure = Figure(figsize=(4.4, 2.9), layout="constrained")
        axes = figure.add_subplot(xlabel=along)
        axes.set_prop_cycle(color=_COLORS)
        axes.set_xticks(range(len(values[along])), values[along])
        for label, line in lines.items():
            x = [values[along].index(point["values"][along]) for point in line]
            y = [one.value(point["figures"]) or 0.0 for point in line]
            axes.plot(x, y, marker="o", ms=3.5, linewidth=1.3, label=label)
            over = [at for at, point in enumerate(line) if point["status"] != "done"]
            axes.plot(x, y, "x", ms=8, color="#b3261e", markevery=over)
            limits = {one.value(point["figures"], of_limit=True) for point in line}
            for limit in (each for each in limits if each is not None):
                axes.axhline(limit, color="#5c6470", linewidth=0.8, ls=":")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if 1 < len(lines) <= _MOST_IN_LEGEND:
            axes.legend(loc="best", fontsize=7)
        return svg_text(figure, f"{one.title} over {along}")
