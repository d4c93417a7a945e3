"""What a suite is given, and what it gives back.

A suite times training steps or compilations against a named baseline in one process,
the contenders taking turns. It returns flat records (every absolute number it measured)
and figures (named ratios, ours over theirs or routed over dense).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

type Record = dict[str, Any]
"""One flat JSON object."""


class SuiteResult(NamedTuple):
    """What a suite measured.

    Attributes:
      records: one flat object per thing measured, absolutes with their units in their
        names, such as `step_seconds` and `peak_bytes`.
      figures: dotted name -> ratio or share, such as "towers.fixed.k2.step_ratio".
    """

    records: list[Record]
    figures: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where and how long to measure.

    Attributes:
      platform: "cpu", "gpu" or "tpu"; suites choose their sizes by it.
      seconds: about how long a suite may time steps. Compilation comes on top; no suite
        takes fewer than a handful of samples, however long they are.
      quick: the smallest sizes and fewest samples that still say something; for tests.
      torch_python: an interpreter that has PyTorch; None for this one.
      say: prints a line of progress.
    """

    platform: str
    seconds: float
    quick: bool = False
    torch_python: Path | None = None
    say: Callable[[str], None] = print


type Suite = Callable[[Setting], SuiteResult]
