"""A run as `experiments.compare` reads it: its configuration and its rows of metrics.

Nothing else is needed, so a run that still trains, or whose checkpoints are gone, can
be compared. What its last evaluation wrote is shown where there is one.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimod_jax.evaluation.judged_rows import KINDS
from unimod_jax.evaluation.step_matching import Curve
from unimod_jax.models.accounting import training_flops
from unimod_jax.training import Assembly, Experiment, RunDirectory, RunError
from unimod_jax.training.held_out import PREFIX

logger = logging.getLogger(__name__)

AXES = ("steps", "flops", "seconds")
"""What a run can be measured in."""

ACCURACIES = tuple(f"{kind}_accuracy" for kind in KINDS)


@dataclasses.dataclass(frozen=True)
class HeldOutRow:
    """The held-out losses after a step.

    Attributes:
      step: how many were taken.
      seconds: spent on them, over all resumptions, compilation included.
      losses: name without its prefix -> loss, such as "text_only/text_loss".
    """

    step: int
    seconds: float
    losses: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """What is compared of a run.

    Attributes:
      name: what it is called beside others.
      run: its directory.
      experiment: what was trained.
      flops_per_step: by `models.accounting`, with attention and heads.
      steps: of the last row.
      seconds: spent until then.
      held_out: the rows with held-out losses, by step.
      summary: what `evaluate` wrote, or nothing.
    """

    name: str
    run: RunDirectory
    experiment: Experiment
    flops_per_step: int
    steps: int
    seconds: float
    held_out: tuple[HeldOutRow, ...]
    summary: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, name: str) -> "ComparedRun":
        """Reads a run directory.

        Raises:
          RunError: if it is none, or has no held-out losses.
        """
        run = RunDirectory(path)
        experiment = run.read_experiment()
        assembly = Assembly(experiment)
        rows = _rows(run.metrics)
        held_out, steps, seconds = _by_step(rows)
        if not held_out:
            raise RunError(
                f"{path} has no held-out losses in {run.metrics.name}; train it with "
                "training.held_out_every of at least 1, or leave it out."
            )
        flops = training_flops(assembly.spec, assembly.layouts, assembly.rows)
        summary = _summary(run.summary)
        return cls(
            name, run, experiment, flops, steps, seconds, tuple(held_out), summary
        )

    @property
    def loss_names(self) -> tuple[str, ...]:
        """All held-out losses of the run, in the order of its rows."""
        names = (name for row in self.held_out for name in row.losses)
        return tuple(dict.fromkeys(names))

    def curve(self, loss: str, axis: str) -> Curve:
        """A held-out loss over one of `AXES`."""
        rows = [row for row in self.held_out if loss in row.losses]
        places = {
            "steps": [float(row.step) for row in rows],
            "flops": [float(row.step * self.flops_per_step) for row in rows],
            "seconds": [row.seconds for row in rows],
        }
        return Curve(places[axis], [row.losses[loss] for row in rows])


def _by_step(
    rows: Mapping[int, Mapping[str, float]],
) -> tuple[list[HeldOutRow], int, float]:
    """The held-out rows, the last step, and the seconds until then."""
    held_out, step_before, seconds = [], 0, 0.0
    for step in sorted(rows):
        row = rows[step]
        seconds += row["step_seconds"] * (step - step_before)
        step_before = step
        losses = {
            name.removeprefix(PREFIX): float(value)
            for name, value in row.items()
            if name.startswith(PREFIX) and _is_number(value)
        }
        if losses:
            held_out.append(HeldOutRow(step, seconds, losses))
    return held_out, step_before, seconds


def _rows(path: Path) -> dict[int, dict[str, Any]]:
    """Step -> its last row; a row that cannot be read is passed over with a warning."""
    rows: dict[int, dict[str, Any]] = {}
    if not path.exists():
        return rows
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and _is_number(row.get("step_seconds")):
            step = row.get("step")
            if isinstance(step, int) and step > 0:
                rows[step] = row
                continue
        logger.warning("row %d of %s cannot be read; it is passed over", number, path)
    return rows


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _summary(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(summary, dict):
            raise ValueError(f"{path} holds a {type(summary).__name__}")
    except ValueError:
        logger.warning("%s cannot be read; it is passed over", path)
        return {}
    return summary
