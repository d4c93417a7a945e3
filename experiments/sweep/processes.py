"""Commands in processes of their own, several at once; none of them stops the rest.

Each process leads a session of its own, so that Ctrl-C reaches this one alone, which
then tells the others and waits for them: none outlives the sweep.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.05
GRACE_SECONDS = 30.0
"""How long a process that was asked to end may take to save what it has."""

_NOT_STARTED = 127
_STOPPING = (
    f"stopping; running points have {GRACE_SECONDS:.0f} s to save, "
    "a second signal ends them now.\n"
).encode()


@dataclasses.dataclass(frozen=True)
class Task:
    """A process to run.

    Attributes:
      name: for whoever started it.
      command: program and arguments.
      log: file for all that it writes.
    """

    name: str
    command: Sequence[str]
    log: Path


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
      exit_code: negative if a signal ended it.
      seconds: since it started.
      timed_out: it was stopped because it took too long.
      interrupted: it was stopped because all were.
    """

    exit_code: int
    seconds: float
    timed_out: bool = False
    interrupted: bool = False


@dataclasses.dataclass(frozen=True)
class Limits:
    """What processes may take.

    Attributes:
      jobs: how many at once.
      timeout: seconds of each.
      grace: seconds from being asked to end to being ended.
      kept_open: a file descriptor that every process holds open; None for none.
    """

    jobs: int
    timeout: float
    grace: float = GRACE_SECONDS
    kept_open: int | None = None


class StopSignals:
    """Counts the signals that ask to stop, while its context is entered.

    The first asks politely. A second one means now. A process under nohup, which
    ignores the end of its terminal, goes on ignoring it.
    """

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        """How many there were."""
        return self.count

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            # Not print: the signal may have come in the middle of one. There is nobody
            # to tell if it was the end of the terminal.
            with contextlib.suppress(OSError):
                os.write(sys.stderr.fileno(), _STOPPING)

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Notes signals instead of dying of them."""
        before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_tasks(
    tasks: Sequence[Task], limits: Limits, stops: Callable[[], int]
) -> Generator[tuple[Task, Ended]]:
    """Runs all tasks and yields each as it ends.

    Closing the generator ends the processes that are left.

    Args:
      tasks: in the order in which they start.
      limits: of processes and time.
      stops: how often it was asked to stop. Once: start no more and ask the running
        ones to end; twice: end them.
    """
    waiting = list(tasks)
    running: list[_Running] = []
    try:
        while running or (waiting and not stops()):
            while waiting and len(running) < limits.jobs and not stops():
                task = waiting.pop(0)
                try:
                    running.append(_Running(task, limits))
                except OSError as error:
                    task.log.write_text(f"error: it cannot be started ({error}).\n")
                    yield task, Ended(_NOT_STARTED, 0.0)
            for process in [process for process in running if process.is_over(stops())]:
                running.remove(process)
                yield process.task, process.ended()
            if running:
                time.sleep(POLL_SECONDS)
    finally:
        for process in running:
            process.kill()


class _Running:
    """A process and how far it has been asked to end."""

    def __init__(self, task: Task, limits: Limits) -> None:
        self.task = task
        self._limits = limits
        self._started = time.monotonic()
        self._asked: float | None = None
        self._timed_out = False
        kept_open = () if limits.kept_open is None else (limits.kept_open,)
        with task.log.open("wb") as log:
            self._process = subprocess.Popen(
                task.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=kept_open,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def is_over(self, stops: int) -> bool:
        """Whether it ended; asks it to end, or ends it, where that is due."""
        if self._process.poll() is not None:
            return True
        now = time.monotonic()
        if self._asked is None:
            self._timed_out = now - self._started > self._limits.timeout
            if self._timed_out or stops:
                self._asked = now
                self._signal(signal.SIGTERM)
        elif stops > 1 or now - self._asked > self._limits.grace:
            self.kill()
        return False

    def ended(self) -> Ended:
        """How it ended; only once it is over."""
        return Ended(
            self._process.wait(),
            time.monotonic() - self._started,
            timed_out=self._timed_out,
            interrupted=self._asked is not None and not self._timed_out,
        )

    def kill(self) -> None:
        """Ends it and waits until it is gone."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and those it started, unless it is over."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)
