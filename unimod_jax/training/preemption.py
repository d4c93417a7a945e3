"""Being told to stop: SIGTERM, which is also how clouds announce a preemption.

All processes must stop after the same step, whoever was told. JAX's preemption service
passes the notice on and picks a step that none of them has passed yet; a process alone
stops after the step it is at.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from jax.experimental import multihost_utils

from unimod_jax.training.processes import Processes


class StopNotice:
    """Whether the run was told to stop; a context manager around its steps."""

    def __init__(self, processes: Processes):
        """Listens to nothing yet."""
        self._processes = processes
        self._told = False
        self._before: Any = None

    def __enter__(self) -> "StopNotice":
        """Takes over SIGTERM in a process alone; JAX has it where there are several."""
        main = threading.current_thread() is threading.main_thread()
        if self._processes.count == 1 and main:
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives SIGTERM back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; call it once after every one."""
        if self._processes.count == 1:
            return self._told
        return multihost_utils.reached_preemption_sync_point(step)
