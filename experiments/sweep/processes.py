"""Commands in processes of their own, several at once; none of them stops the rest.

Each process leads a session of its own, so that Ctrl-C reaches this one alone, which
then tells the others and waits for them: none outlives the sweep.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

_POLL_SECONDS = 0.05
_NOT_STARTED = 127
_STOPPING = b"stopping; what runs may save, a second signal ends it now.\n"


class Task(NamedTuple):
    """A process to run: its name, its command, and the file for all that it writes."""

    name: str
    command: Sequence[str]
    log: Path


class Ended(NamedTuple):
    """How a process ended (negative: by a signal), and whether it was stopped."""

    exit_code: int
    seconds: float
    timed_out: bool = False
    interrupted: bool = False


class Limits(NamedTuple):
    """Processes at once, seconds of each and from SIGTERM to SIGKILL, open files."""

    jobs: int
    timeout: float
    grace: float = 30.0
    kept_open: tuple[int, ...] = ()


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Counts signals that ask to stop instead of dying of them; yields the count.

    A process under nohup, which ignores the end of its terminal, goes on ignoring it.
    """
    seen: list[int] = []

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), _STOPPING if len(seen) == 1 else b"")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: len(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_tasks(
    tasks: Sequence[Task], limits: Limits, stops: Callable[[], int]
) -> Generator[tuple[Task, Ended]]:
    """Runs all tasks in order, yields each as it ends; closing it ends what is left.

    Args:
      tasks, limits: what runs, and how long.
      stops: how often it was asked to stop. Once: start no more and ask the running
        ones to end; twice: end them.
    """
    closed = threading.Event()

    def asked() -> int:
        return 2 if closed.is_set() else stops()

    with ThreadPoolExecutor(limits.jobs) as pool:
        ends = {pool.submit(_run, task, limits, asked): task for task in tasks}
        try:
            for end in as_completed(ends):
                if (ended := end.result()) is not None:
                    yield ends[end], ended
        finally:
            closed.set()


def _run(task: Task, limits: Limits, stops: Callable[[], int]) -> Ended | None:
    """A process from its start to its end; None if it was not to start any more."""
    if stops():
        return None
    try:
        with task.log.open("wb") as log:
            process = subprocess.Popen(
                task.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=limits.kept_open,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
    except OSError as error:
        task.log.write_text(f"error: it cannot be started ({error}).\n")
        return Ended(_NOT_STARTED, 0.0)
    started, end_by, timed_out = time.monotonic(), None, False
    while process.poll() is None:
        now, asked = time.monotonic(), stops()
        if end_by is None and (asked or now - started > limits.timeout):
            end_by, timed_out = now + limits.grace, not asked
            os.killpg(process.pid, signal.SIGTERM)
        elif end_by is not None and (asked > 1 or now > end_by):
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    seconds = round(time.monotonic() - started, 3)
    return Ended(process.returncode, seconds, timed_out, bool(end_by) and not timed_out)
