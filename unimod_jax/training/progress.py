"""Progress on the terminal: step, losses, tokens per second, time left.

On a terminal it is a bar; elsewhere (a log file, CI) a line every few seconds.
"""

import time
from collections.abc import Mapping

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows how far a run is."""

    def __init__(self, first_step: int, last_step: int, tokens_per_step: int):
        """Starts the clock.

        Args:
          first_step: steps already taken.
          last_step: the step to reach.
          tokens_per_step: token slots of one step.
        """
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        self._tokens_per_step = tokens_per_step
        self._started = self._last_line = time.monotonic()
        self._first_step, self._last_step = first_step, last_step
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            "train", total=last_step, completed=first_step, status="compiling"
        )
        self._bar.start()

    def update(self, step: int, losses: Mapping[str, float]) -> float:
        """Shows a step's losses; returns tokens per second since the start."""
        now = time.monotonic()
        elapsed = max(now - self._started, 1e-9)
        steps = step - self._first_step
        rate = steps * self._tokens_per_step / elapsed
        parts = [f"{name} {value:.3f}" for name, value in losses.items()]
        status = "  ".join([*parts, f"{rate:,.0f} tokens/s"])
        self._bar.update(self._task, completed=step, status=status)
        quiet = now - self._last_line < _SECONDS_BETWEEN_LINES
        if not self._console.is_terminal and (not quiet or step == self._last_step):
            left = (self._last_step - step) * elapsed / max(steps, 1)
            self._console.print(
                f"step {step}/{self._last_step}  {status}  {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )
            self._last_line = now
        return rate

    def close(self) -> None:
        """Removes the bar."""
        self._bar.stop()
