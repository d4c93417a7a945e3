"""A sweep: its points run, what is known of them kept, and all of them reported."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.sweep.directory import SweepDirectory
from experiments.sweep.measurement import Measurement, Outcome
from experiments.sweep.plan import Point
from experiments.sweep.processes import Ended, Limits, Task, run_tasks
from experiments.sweep.tables import Rows, write_tables


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is swept and where it is kept.

    Attributes:
      points: in their order.
      measurement: what is done at each.
      directory: claimed.
      identity: what is swept, as the directory has it.
      refusal: why a point is no valid experiment, in a sentence; None if it is one.
      say: prints a line of progress.
    """

    points: Sequence[Point]
    measurement: Measurement
    directory: SweepDirectory
    identity: Mapping[str, Any]
    refusal: Callable[[Point], str | None]
    say: Callable[[str], None]

    def rows(self) -> Rows:
        """All points and what is known of them."""
        return [(point, self.directory.read(point)) for point in self.points]

    def run(
        self, limits: Limits, stops: Callable[[], int], retry_failed: bool = False
    ) -> None:
        """Runs the points that have no result; none that fails stops the others.

        Args:
          limits: of processes and time.
          stops: how often the sweep was asked to stop.
          retry_failed: whether to run those again that failed.
        """
        known = self.rows()
        waiting = [
            point
            for point, outcome in known
            if outcome is None or (retry_failed and outcome.status == "failed")
        ]
        told = f"{len(known) - len(waiting)} of {len(known)} points have a result"
        if waiting:
            told += f"; the others run in {self.directory.path}, {limits.jobs} at once"
        self.say(told)
        named: dict[str, Point] = {}
        for point in waiting:
            if why := self.refusal(point):
                self._keep(point, Outcome("failed", {}, why))
            else:
                named[point.name] = point
        tasks = [self._task(point) for point in named.values()]
        with contextlib.closing(run_tasks(tasks, limits, stops)) as ends:
            for task, ended in ends:
                self._note(named[task.name], ended)

    def _task(self, point: Point) -> Task:
        """A point's process, in a folder that is as it should be."""
        folder = self.directory.folder(point)
        if not self.measurement.goes_on:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        command = self.measurement.command(point, folder)
        return Task(point.name, command, self.directory.log(point))

    def _note(self, point: Point, ended: Ended) -> None:
        """Keeps what came of a process, unless it was stopped before its end."""
        folder, log = self.directory.folder(point), self.directory.log(point)
        outcome = self.measurement.read(ended, folder, log)
        if outcome is None or (ended.interrupted and outcome.status == "failed"):
            self.say(f"{self._place(point)}: stopped; the same command runs it again")
        else:
            self._keep(point, outcome)

    def _keep(self, point: Point, outcome: Outcome) -> None:
        self.directory.write(point, outcome)
        told = {
            "done": lambda: self.measurement.summary(outcome.figures),
            "does not fit": lambda: f"does not fit: {outcome.error}",
            "failed": lambda: f"failed: {outcome.error}",
        }[outcome.status]()
        self.say(f"{self._place(point)}: {told} ({outcome.seconds:.0f} s)")

    def _place(self, point: Point) -> str:
        names = [point.name for point in self.points]
        return f"[{names.index(point.name) + 1}/{len(names)}] {point.name}"

    def report(self) -> None:
        """Writes results.csv, results.json and report.html of what is known."""
        # Charts are drawn by a library that takes a second to import.
        from experiments.sweep.report import write_report

        rows = self.rows()
        write_tables(self.directory, self.identity, rows)
        write_report(self.directory, self.identity, rows, self.measurement)
