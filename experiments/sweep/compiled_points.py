"""A compile check at every point: `python -m experiments.compile_check`.

It needs no accelerator. Its JSON object is the point's result, and its exit status says
whether the step fits.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.sweep.measurement import (
    Measurement,
    Outcome,
    Shown,
    failure,
    flat,
    last_error,
)
from experiments.sweep.plan import TOPOLOGY, Point
from experiments.sweep.processes import Ended

PROGRAM = (sys.executable, "-m", "experiments.compile_check")

_DOES_NOT_FIT = 3
_GB = 1e9
_TERA = 1e12
_COLLECTIVES = "collective_bytes_per_chip"
_ALL_COLLECTIVES = f"{_COLLECTIVES}.total"


def compile_checks(
    experiment: str,
    topology: str | None,
    options: Sequence[str],
    program: Sequence[str] = PROGRAM,
) -> Measurement:
    """The measurement of a compile sweep.

    Args:
      experiment: name or file.
      topology: such as "v5e:8x8"; None if the points have it.
      options: those of all points.
      program: what checks; it is given the experiment, `--json FILE` and options.
    """

    def command(point: Point, folder: Path) -> list[str]:
        place = [f"--{TOPOLOGY}", topology] if topology else []
        json_file = ["--json", str(_json_file(folder))]
        return [*program, experiment, *place, *json_file, *options, *point.options]

    def shown(names: Sequence[str]) -> list[Shown]:
        return SHOWN

    return Measurement("compile check", command, _read, _summary, shown, _note)


def _json_file(folder: Path) -> Path:
    return folder / "compile_check.json"


def _read(ended: Ended, folder: Path, log: Path) -> Outcome | None:
    if ended.timed_out or ended.exit_code not in (0, _DOES_NOT_FIT):
        return failure(ended, log)
    fits = ended.exit_code == 0
    try:
        written = json.loads(_json_file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        written = None
    figures = flat(written) if isinstance(written, dict) else {}
    if fits and figures.get("fits") is not True:
        why = f"it ended well but wrote no result to {_json_file(folder)}."
        return failure(ended, log, why)
    kinds = [x for name, x in figures.items() if name.startswith(f"{_COLLECTIVES}.")]
    if kinds and _ALL_COLLECTIVES not in figures:
        figures[_ALL_COLLECTIVES] = sum(x for x in kinds if isinstance(x, int | float))
    return Outcome(
        "done" if fits else "does not fit",
        figures | {"fits": fits},
        None if fits else last_error(log),
        ended.exit_code,
        round(ended.seconds, 3),
    )


def _summary(figures: Mapping[str, Any]) -> str:
    parts = ["fits"]
    needed, seconds = (shown.value(figures) for shown in SHOWN[:2])
    has = SHOWN[0].limit(figures)
    if needed is not None and has is not None:
        parts.append(f"{needed:.3g} of {has:.3g} GB a chip")
    if seconds is not None:
        parts.append(f"{seconds:.3g} s a step")
    return ", ".join(parts)


def _note(figures: Mapping[str, Any]) -> str:
    """The options that the check chose where nobody named them, such as a mesh."""
    options = figures.get("options")
    return f"chosen: {options}" if options else ""


SHOWN = [
    Shown("bytes_per_chip.total", "GB per chip", _GB, level="usable_bytes_per_chip"),
    Shown("roofline_step_seconds", "roofline seconds per step"),
    Shown("roofline.tokens_per_second_per_chip", "roofline tokens per second and chip"),
    Shown("roofline.utilisation", "roofline utilisation"),
    Shown("bytes_per_chip.parameters", "parameters, GB per chip", _GB),
    Shown("bytes_per_chip.optimizer", "optimizer, GB per chip", _GB),
    Shown("bytes_per_chip.activations", "activations, GB per chip", _GB),
    Shown("flops_per_chip", "TFLOP per chip and step", _TERA),
    Shown(_ALL_COLLECTIVES, "collectives, GB per chip and step", _GB),
]
"""What tables and charts show of a compile check, the most important first."""
