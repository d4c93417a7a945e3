"""What is measured at a point, by a process of its own, and what came of it."""

import dataclasses
import math
import signal
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.sweep.plan import Point, option_error
from experiments.sweep.processes import Ended

Status = Literal["done", "does not fit", "failed"]
"""A point that does not fit has a result; one that failed has a reason."""

_LAST_BYTES = 65_536
"""Of a log: where its error is looked for."""

_LONGEST_ERROR = 600


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a point.

    Attributes:
      status: see `Status`.
      figures: dotted name -> number, truth or text; what could be read, even of a point
        that does not fit.
      error: one sentence, for all but "done".
      exit_code: of the process; None if none was started. Negative: ended by a signal.
      seconds: that it took.
    """

    status: Status
    figures: Mapping[str, float | bool | str]
    error: str | None = None
    exit_code: int | None = None
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Shown:
    """A figure as tables and charts show it.

    Attributes:
      figure: its name in `Outcome.figures`.
      title: with its unit.
      scale: the unit shown, in those of the figure.
      level: another figure, the limit of this one, to be marked in the chart.
    """

    figure: str
    title: str
    scale: float = 1.0
    level: str | None = None

    def value(self, figures: Mapping[str, Any]) -> float | None:
        """The figure in the unit shown; None where there is none."""
        return _scaled(figures.get(self.figure), self.scale)

    def limit(self, figures: Mapping[str, Any]) -> float | None:
        """The limit in the unit shown; None where there is none."""
        return _scaled(figures.get(self.level or ""), self.scale)


def _scaled(value: object, scale: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value / scale


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is done at every point.

    Attributes:
      name: "compile check" or "short run".
      command: point and a folder of its own -> program and arguments.
      read: how the process ended, that folder, and its log -> what came of it. None if
        it was stopped from outside and has to be run again.
      summary: the figures of a point that is done -> a few words.
      shown: all figures there are -> those for tables and charts.
      note: the figures of a point -> what else to know of it, for tables.
      goes_on: whether a process goes on where an earlier one in its folder was stopped;
        if not, it gets an empty folder.
    """

    name: str
    command: Callable[[Point, Path], list[str]]
    read: Callable[[Ended, Path, Path], Outcome | None]
    summary: Callable[[Mapping[str, Any]], str]
    shown: Callable[[Sequence[str]], list[Shown]]
    note: Callable[[Mapping[str, Any]], str] = lambda figures: ""
    goes_on: bool = False


def failure(ended: Ended, log: Path, why: str | None = None) -> Outcome:
    """The outcome of a process that did not do what it should have.

    Args:
      ended: how it ended.
      log: what it wrote; its last error is the reason if no other is known.
      why: a sentence that says more.
    """
    if ended.timed_out:
        why = f"it took longer than {ended.seconds:.0f} s; raise --timeout."
    elif why is None and ended.exit_code < 0:
        why = f"it was ended by {_signal_name(-ended.exit_code)}; see {log}."
    return Outcome(
        "failed",
        {},
        why or last_error(log) or f"it ended with status {ended.exit_code}, silently.",
        ended.exit_code,
        round(ended.seconds, 3),
    )


def last_error(log: Path) -> str | None:
    """The last sentence of a log that reports an error, or its last line."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_BYTES))
        printed = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in printed.splitlines()]
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    words = (line for line in reversed(lines) if any(map(str.isalnum, line)))
    told = option_error(printed) or next(words, None)
    return told and textwrap.shorten(told, _LONGEST_ERROR, placeholder=" ...")


def _signal_name(number: int) -> str:
    """SIGKILL for 9, with what it often means."""
    if number == signal.SIGKILL:
        return "SIGKILL (out of memory?)"
    names = {known.value: known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")


def flat(tree: object, prefix: str = "") -> dict[str, float | bool | str]:
    """The numbers, truths and texts of nested objects, with dotted names.

    A list becomes a text of its words. Numbers that are not finite are left out: JSON
    has none.
    """
    if isinstance(tree, list):
        tree = " ".join(str(word) for word in tree)
    if isinstance(tree, Mapping):
        return {
            name: value
            for key, branch in tree.items()
            for name, value in flat(
                branch, f"{prefix}.{key}" if prefix else key
            ).items()
        }
    if isinstance(tree, float) and not math.isfinite(tree):
        return {}
    return {prefix: tree} if isinstance(tree, bool | int | float | str) else {}
