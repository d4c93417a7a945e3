"""A trace of a few steps (`--profile`), to be opened with XProf or Perfetto.

The first steps of a run compile and fill caches, so a number of steps without a range
begins after them.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax

from unimod_jax.training.run_directory import RunError

logger = logging.getLogger(__name__)

SETTLING_STEPS = 3
"""Steps of a run before a trace that names no range."""


@dataclasses.dataclass(frozen=True)
class ProfileSteps:
    """Which steps are traced.

    Attributes:
      first: the first one; 0: the one after `SETTLING_STEPS` of this start.
      count: how many.
    """

    first: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "ProfileSteps":
        """From "10:13" (steps 10, 11 and 12) or "3" (three of them).

        Raises:
          ValueError: for anything else.
        """
        first, colon, end = text.partition(":")
        numbers = [int(part) for part in (first, end) if part.isdigit()]
        if not colon and len(numbers) == 1 and numbers[0] > 0:
            return cls(0, numbers[0])
        if colon and len(numbers) == 2 and 0 < numbers[0] < numbers[1]:
            return cls(numbers[0], numbers[1] - numbers[0])
        raise ValueError(
            f"--profile {text!r} names no steps; give FIRST:END, such as 10:13 for "
            f"steps 10 to 12, or how many, such as 3."
        )


class StepTrace:
    """Traces a range of steps into a directory; does nothing without a range."""

    def __init__(
        self,
        steps: ProfileSteps | None,
        directory: Path,
        first_step: int,
        last_step: int,
    ):
        """Checks the range.

        Args:
          steps: what to trace; None for nothing.
          directory: where the trace goes.
          first_step, last_step: of what this start of the run will take.

        Raises:
          RunError: if it will not take all steps of the range.
        """
        self._directory = directory
        self._range, self._running = range(0), False
        if steps is None:
            return
        first = steps.first or first_step + SETTLING_STEPS
        self._range = range(first, first + steps.count)
        if first < first_step or self._range[-1] > last_step:
            raise RunError(
                f"--profile asks for steps {first} to {self._range[-1]}, but this "
                f"start takes steps {first_step} to {last_step}; choose among these."
            )

    def before(self, step: int) -> None:
        """Starts the trace where it is due."""
        if self._range and step == self._range[0]:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def after(self, step: int, outputs: Any) -> None:
        """Ends the trace when its last step has ended on the devices."""
        if self._running and step == self._range[-1]:
            jax.block_until_ready(outputs)
            self.close()
            logger.info("traced steps %s into %s", self._range, self._directory)

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
