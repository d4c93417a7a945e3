"""Where the time of a run went: start, compile, input, checkpoint, held_out, steps.

Every second of the host belongs to one part. Steps run on the devices while the host
prepares the next, so `input` is only what the devices waited for (see `input_wait`),
`checkpoint` only what kept the loop from starting steps, `held_out` what the held-out
loss took (compiling it too), and the rest is `steps`.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from unimod_jax.training.run_directory import write_atomically

PARTS = ("start", "compile", "input", "checkpoint", "held_out", "steps")


class TimeBreakdown:
    """Adds up seconds by part; what no part claims belongs to the current stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Starts the clock, in the stage "start"."""
        self._clock = clock
        self._since = clock()
        self._stage = "start"
        self._seconds: dict[str, float] = {part: 0.0 for part in PARTS}

    def enter(self, stage: str) -> None:
        """From now on, what no part claims belongs to this stage."""
        self._settle()
        self._stage = stage

    @contextlib.contextmanager
    def spend(self, part: str) -> Iterator[None]:
        """What the block takes belongs to a part."""
        before = self._stage
        self.enter(part)
        try:
            yield
        finally:
            self.enter(before)

    def move(self, seconds: float, part: str) -> None:
        """Seconds of the current stage belong to a part after all, if it has them."""
        self._settle()
        seconds = min(seconds, self._seconds[self._stage])
        self._seconds[self._stage] -= seconds
        self._seconds[part] += seconds

    def seconds(self) -> dict[str, float]:
        """Part -> seconds so far; together, all the time since the start."""
        self._settle()
        return dict(self._seconds)

    def _settle(self) -> None:
        now = self._clock()
        self._seconds[self._stage] += now - self._since
        self._since = now

    def sentence(self) -> str:
        """The parts in one line, such as "12 s: start 3 s (25%), ..."."""
        parts = self.seconds()
        total = sum(parts.values())
        shares = ", ".join(
            f"{part} {seconds:.1f} s ({seconds / max(total, 1e-9):.0%})"
            for part, seconds in parts.items()
        )
        return f"{total:.1f} s: {shares}"

    def write(self, path: Path, steps: int) -> None:
        """Writes the seconds, their total and how many steps were taken, as JSON."""
        parts = self.seconds()
        record = {"seconds": parts, "total": sum(parts.values()), "steps_taken": steps}
        write_atomically(path, json.dumps(record, indent=2) + "\n")
