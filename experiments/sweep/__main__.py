"""Tries an experiment at many settings: `python -m experiments.sweep EXPERIMENT`.

Each `--vary NAME=VALUE,VALUE,...` is an axis; the points are the product of all. With
`--topology` (or an axis of that name) every point is a compile check, which needs no
accelerator; without it every point is a short run. Other options are the experiment's
and are the same at all points.

The same command runs what is missing. More values on an axis are welcome; another
experiment, axis or option needs another --out.
"""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.command_line import (
    asks_for_help,
    default_directory,
    experiment_parser,
    given_experiment,
    num_cores,
    one_sentence_errors,
    override,
    parse_with_overrides,
)
from experiments.options import options_by_name
from experiments.sweep.measurement import (
    LOG,
    RESULT,
    Outcome,
    read_check,
    read_run,
    summary,
)
from experiments.sweep.points import TOPOLOGY, Point, parse_axes, plan_points, refusal
from experiments.sweep.processes import Limits, Task, run_tasks, stop_signals
from experiments.sweep.results import SweepDirectory
from unimod_jax.training import RunError
from unimod_jax.training.run_directory import experiment_to_json

STEPS = 20
"""Of a short run, unless the command says otherwise."""

STOPPED = 75
"""Exit status of a sweep that was stopped, as of a training run: run it again."""

_VALUES = """
values: a comma parts two values, a space the words of one, as tuples need them:
  --vary "mot.untied_layers=1 3,0 2" --vary mesh.fsdp=16,32
has the points --mot.untied_layers 1 3 and 0 2 on its first axis; quotes inside keep a
comma or a space in a word, and () is the empty tuple.

exit status: 0 all points have a result (not to fit is one), 1 some failed, 2 the
command is wrong, 75 stopped.

"""


def main(
    arguments: Sequence[str] | None = None,
    *,
    compile_check: Sequence[str] = (sys.executable, "-m", "experiments.compile_check"),
    train: Sequence[str] = (sys.executable, "-m", "experiments.train"),
) -> None:
    """Runs the command, given what runs at a point; prints the path of the report."""
    options, rest = parse_with_overrides(_parser(), arguments)
    with one_sentence_errors():
        sweep = _planned(options, rest, compile_check, train)
        status = _run(sweep, options)
    raise SystemExit(status)


def _parser() -> argparse.ArgumentParser:
    parser = experiment_parser("experiments.sweep", __doc__, _VALUES)
    add = parser.add_argument
    vary = "an axis: an option of the experiment and its values; may be repeated"
    add("--vary", action="append", default=[], metavar="NAME=VALUE,...", help=vary)
    add(f"--{TOPOLOGY}", help="check that it compiles and fits, such as v5e:8x8")
    out = "the sweep's directory (default: runs/EXPERIMENT[-tiny][-TOPOLOGY]-sweep)"
    add("--out", type=Path, help=out)
    jobs = "points at once (default: half of the cores for checks; 1 for timed runs)"
    add("--jobs", type=int, help=jobs)
    limit = "stop a point after so many seconds; inf for never (default: %(default)g)"
    add("--timeout", type=float, default=3600.0, metavar="SECONDS", help=limit)
    add("--retry-failed", action="store_true", help="run points again that failed")
    return parser


class _Sweep(NamedTuple):
    """What is swept: what starts a point's process, and why some have none."""

    points: Sequence[Point]
    refused: Mapping[str, str]
    command: Callable[[Point, Path], list[str]]
    compiles: bool
    identity: dict[str, Any]
    directory: SweepDirectory


def _planned(
    options: argparse.Namespace,
    rest: Sequence[str],
    compile_check: Sequence[str],
    train: Sequence[str],
) -> _Sweep:
    """Checks the whole command, then claims the sweep's directory."""
    experiment, name = given_experiment(options), options.experiment
    if asks_for_help(rest):
        override(experiment, ["--help"], f"python -m experiments.sweep {name}")
    for option, limit in (("jobs", options.jobs), ("timeout", options.timeout)):
        if limit is not None and not limit > 0:
            raise RunError(f"--{option} is {limit}; give a number above 0.")
    place = [f"--{TOPOLOGY}", options.topology] if options.topology else []
    axes = parse_axes(options.vary, experiment, [*rest, *place])
    compiles = bool(place) or TOPOLOGY in axes
    if not compiles and "training.steps" not in {*options_by_name(rest), *axes}:
        rest = ["--training.steps", str(STEPS), *rest]
    points = plan_points(axes)
    whys = {point.name: refusal(experiment, point, rest) for point in points}
    refused = {point: why for point, why in whys.items() if why}
    if len(refused) == len(points):
        raise RunError(f"no point is a valid experiment: {refused[points[0].name]}")

    def command(point: Point, folder: Path) -> list[str]:
        program, out = (compile_check, "--json") if compiles else (train, "--run-dir")
        given = [*place, *(["--tiny"] if options.tiny else []), *rest]
        return [
            *program,
            name,
            out,
            str(folder / RESULT[out]),
            *given,
            *point.options(),
        ]

    identity = {
        "experiment": name,
        "measurement": "compile check" if compiles else "short run",
        "topology": options.topology,
        "tiny": options.tiny,
        "axes": list(axes),
        "options": options_by_name(rest),
        "configuration": json.loads(experiment_to_json(experiment)),
    }
    topology = (options.topology or "").replace(":", "-").replace("/", "-")
    default = default_directory(options, *filter(None, (topology, "sweep")))
    directory = SweepDirectory(options.out or default)
    directory.claim(identity)
    return _Sweep(points, refused, command, compiles, identity, directory)


def _run(sweep: _Sweep, options: argparse.Namespace) -> int:
    """Runs what is missing and reports; returns the exit status."""
    read, total = sweep.directory.read, len(sweep.points)
    again = ("missing", "failed") if options.retry_failed else ("missing",)
    jobs = options.jobs or (max(1, num_cores() // 2) if sweep.compiles else 1)
    with sweep.directory.locked() as lock, stop_signals() as stops:
        waiting = [point for point in sweep.points if read(point).status in again]
        _say(f"{total - len(waiting)} of {total} points have a result")
        limits = Limits(jobs, options.timeout, kept_open=(lock,))
        _run_points(sweep, waiting, limits, stops)
        page = sweep.directory.report(sweep.identity, sweep.points)
    statuses = [read(point).status for point in sweep.points]
    missing, failed = statuses.count("missing"), statuses.count("failed")
    if missing:
        _say(f"{missing} of {total} are missing; run the same command again for them.")
    if failed:
        _say(f"points that failed: {failed}; --retry-failed runs them again.")
    print(page)
    return STOPPED if missing and stops() else int(bool(missing or failed))


def _run_points(
    sweep: _Sweep, points: Sequence[Point], limits: Limits, stops: Callable[[], int]
) -> None:
    """Runs points and keeps what came of each; none that fails stops the others."""
    named, names = {p.name: p for p in points}, [point.name for point in sweep.points]

    def keep(name: str, outcome: Outcome | None) -> None:
        told = "stopped; the same command runs it again"
        if outcome is not None:
            sweep.directory.write(named[name], outcome)
            told = outcome.error or summary(outcome.figures)
            told = f"{outcome.status}: {told} ({outcome.seconds:.0f} s)"
        _say(f"[{names.index(name) + 1}/{len(names)}] {name}: {told}")

    tasks = []
    for name, point in named.items():
        if name in sweep.refused:
            keep(name, Outcome("failed", {}, sweep.refused[name]))
            continue
        folder = sweep.directory.folder(point)
        if sweep.compiles:  # A run goes on where it was stopped, a check does not.
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        tasks.append(Task(name, sweep.command(point, folder), folder / LOG))
    with contextlib.closing(run_tasks(tasks, limits, stops)) as ends:
        for task, ended in ends:
            read = read_check if sweep.compiles else read_run
            outcome = read(ended, task.log.parent)
            stopped = outcome and outcome.status == "failed" and ended.interrupted
            keep(task.name, None if stopped else outcome)


def _say(line: str) -> None:
    """Prints a line of progress, if there is still a terminal to print it on."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
