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
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import (
    asks_for_help,
    default_directory,
    experiment_parser,
    given_experiment,
    one_sentence_errors,
    override,
    parse_with_overrides,
)
from experiments.sweep import compiled_points, trained_points
from experiments.sweep.directory import SweepDirectory
from experiments.sweep.plan import (
    TOPOLOGY,
    check_axes,
    options_by_name,
    parse_axis,
    plan_points,
    refusal,
)
from experiments.sweep.processes import Limits, StopSignals
from experiments.sweep.sweep import Sweep
from unimod_jax.training import RunError
from unimod_jax.training.run_directory import experiment_to_json

TIMEOUT_SECONDS = 3600.0
"""Of a point: none should take so long, and a process that hangs has to end."""

STOPPED = 75
"""Exit status of a sweep that was stopped: the same command goes on. It is that of a
training run."""

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
    compile_check: Sequence[str] = compiled_points.PROGRAM,
    train: Sequence[str] = trained_points.PROGRAM,
) -> None:
    """Runs the command; the last line printed is the path of the report.

    Args:
      arguments: of the command line.
      compile_check: the program of compile sweeps.
      train: the program of sweeps of short runs.
    """
    parser = _parser()
    options, rest = parse_with_overrides(parser, arguments)
    with one_sentence_errors():
        sweep = _planned(options, rest, compile_check, train)
        status = _run(sweep, options)
    raise SystemExit(status)


def _parser() -> argparse.ArgumentParser:
    parser = experiment_parser("experiments.sweep", __doc__, _VALUES + "\n")
    add = parser.add_argument
    add(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="an axis: an option of the experiment and its values; may be repeated",
    )
    add(f"--{TOPOLOGY}", help="check that it compiles and fits, such as v5e:8x8")
    add(
        "--out",
        type=Path,
        help="the sweep's directory (default: runs/EXPERIMENT-sweep, with -tiny and "
        "the topology in its name)",
    )
    add(
        "--jobs",
        type=int,
        help="points at once (default: half of the cores for compile checks; 1 for "
        "runs, which share their devices and are timed)",
    )
    add(
        "--timeout",
        type=float,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="stop a point after so long; inf for never (default: %(default)g)",
    )
    add("--retry-failed", action="store_true", help="run points again that failed")
    return parser


def _planned(
    options: argparse.Namespace,
    rest: Sequence[str],
    compile_check: Sequence[str],
    train: Sequence[str],
) -> Sweep:
    """Checks the whole command, then claims the sweep's directory."""
    axes = [parse_axis(text) for text in options.vary]
    compiles = options.topology or any(axis.name == TOPOLOGY for axis in axes)
    fixed = list(rest) if compiles else trained_points.short_run_options(rest, axes)
    experiment = given_experiment(options)
    program = f"python -m experiments.sweep {options.experiment}"
    if asks_for_help(rest):
        override(experiment, ["--help"], program)
    topology = ["--topology"] if options.topology else []
    check_axes(experiment, axes, [*fixed, *topology])
    _check_limits(options)
    points = plan_points(axes)
    refused = functools.partial(refusal, experiment, fixed=fixed, program=program)
    if all(refused(point) for point in points):
        raise RunError(f"no point is a valid experiment: {refused(points[0])}")
    shared = ["--tiny", *fixed] if options.tiny else fixed
    name = options.experiment
    if compiles:
        given = (name, options.topology, shared, compile_check)
        measurement = compiled_points.compile_checks(*given)
    else:
        measurement = trained_points.short_runs(name, shared, train)
    directory = SweepDirectory(options.out or _default(options))
    identity = {
        "experiment": options.experiment,
        "measurement": measurement.name,
        "topology": options.topology,
        "tiny": options.tiny,
        "axes": [axis.name for axis in axes],
        "options": options_by_name(fixed),
        "configuration": json.loads(experiment_to_json(experiment)),
    }
    directory.claim(identity)
    return Sweep(points, measurement, directory, identity, refused, _say)


def _check_limits(options: argparse.Namespace) -> None:
    for name, value in (("jobs", options.jobs), ("timeout", options.timeout)):
        if value is not None and not value > 0:
            raise RunError(f"--{name} is {value}; give a number above 0.")


def _default(options: argparse.Namespace) -> Path:
    """runs/EXPERIMENT-sweep, with the topology in its name."""
    topology = (options.topology or "").replace(":", "-").replace("/", "-")
    return default_directory(options, *filter(None, (topology, "sweep")))


def _run(sweep: Sweep, options: argparse.Namespace) -> int:
    """Runs what is missing and reports; returns the exit status."""
    jobs = options.jobs or (1 if sweep.measurement.goes_on else max(1, _cores() // 2))
    stops = StopSignals()
    with sweep.directory.locked() as lock, stops.noted():
        limits = Limits(jobs, options.timeout, kept_open=lock)
        sweep.run(limits, stops, options.retry_failed)
        sweep.report()
    statuses = [outcome and outcome.status for _, outcome in sweep.rows()]
    missing, failed = statuses.count(None), statuses.count("failed")
    known = f"{len(statuses) - missing} of {len(statuses)} points have a result"
    if missing:
        _say(f"{known}; run the same command again for the rest.")
    if failed:
        _say(f"points that failed: {failed}; --retry-failed runs them again.")
    print(sweep.directory.report)
    if missing and stops():
        return STOPPED
    return 1 if missing or failed else 0


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _say(line: str) -> None:
    """Prints a line of progress, if there is still a terminal to print it on."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
