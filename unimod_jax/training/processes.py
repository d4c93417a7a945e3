"""The processes of a run: how they find each other, wait for each other, and end.

One process drives the devices of one host (or, under Slurm, one device). All run the
same command; which of them a process is comes from `--processes.*`, the environment
(JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID), or from what JAX detects:
a TPU pod, GKE, Slurm, Open MPI. A process alone needs none of it.
"""

import contextlib
import ctypes
import dataclasses
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from unimod_jax.training import roll_call
from unimod_jax.training.attendance import Attendance
from unimod_jax.training.endings import PEER_LOST, PeerLost, Preempted
from unimod_jax.training.run_directory import RunError

logger = logging.getLogger(__name__)

_JAX_NOTICES_LATER = 60.0
"""JAX's own heartbeat ends processes without a word; ours must be first."""

_SENTENCES = (RunError, ValueError, OSError, KeyboardInterrupt)
"""What a user is told in a sentence; anything else is a bug, or another's death."""


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """Which process of a run this is; no part of an experiment: results are the same.

    Attributes:
      coordinator: HOST:PORT of process 0; empty: $JAX_COORDINATOR_ADDRESS or detected.
      count: processes of the run; 0: $JAX_NUM_PROCESSES or detected.
      index: which of them this is; -1: $JAX_PROCESS_ID or detected.
      detect: whether to ask JAX for a cluster (TPU, GKE, Slurm, Open MPI) where
        nothing is given; False: then this process is alone.
      start_timeout: seconds in which all processes must have joined.
      silence_timeout: seconds without a sign of life after which a process, or its
        host, counts as dead; one that exits or crashes is known at once.
      barrier_timeout: seconds that the first at a barrier waits for the last.
    """

    coordinator: str = ""
    count: int = 0
    index: int = -1
    detect: bool = True
    start_timeout: float = 300.0
    silence_timeout: float = 60.0
    barrier_timeout: float = 600.0

    def __post_init__(self) -> None:
        """Checks the timeouts."""
        least = 3 * roll_call.PING_SECONDS
        if self.silence_timeout < least:
            raise ValueError(
                f"processes.silence_timeout is {self.silence_timeout}; give at least "
                f"{least:g}, three times the pause between two signs of life."
            )
        if self.start_timeout <= 0 or self.barrier_timeout <= 0:
            raise ValueError(
                f"processes.start_timeout {self.start_timeout} and barrier_timeout "
                f"{self.barrier_timeout} must be positive; give seconds."
            )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands: address of process 0, how many, which, its devices."""

    coordinator: str
    count: int
    index: int
    local_devices: tuple[int, ...] | None = None


class Processes:
    """The processes of a run, seen from one of them. `ALONE` where there is one."""

    def __init__(
        self, attendance: Attendance | None = None, hub: roll_call.Hub | None = None
    ):
        """Alone without an attendance; see `start_processes`."""
        self._attendance, self._hub = attendance, hub
        self.index = attendance.index if attendance else 0
        self.count = len(attendance.hosts) if attendance else 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes what is written once."""
        return self.index == 0

    def gather(self, name: str, value: Any = None) -> list[Any]:
        """A barrier with a name; everyone's value (as JSON holds it), by process."""
        if self._attendance is None:
            return [value]
        return self._attendance.gather(name, value)

    @contextlib.contextmanager
    def first_goes_ahead(self, name: str) -> Iterator[None]:
        """Process 0 runs the block before all others do."""
        if not self.is_first:
            self.gather(name)
        yield
        if self.is_first:
            self.gather(name)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Runs the block to the end on all processes, or ends it on all of them.

        Whoever fails with a sentence ends the others with it. Any other error may be
        the echo of another process's death, such as a collective that lost its peer:
        then that death is what all processes are told, and this one waits for it.
        """
        if self._attendance is None:
            yield
            return
        try:
            yield
            self.gather("end of the run")
        except Preempted:
            self.gather("end of the run")  # all were told: nobody is at fault
            self._leave_in_order()
            raise
        except _SENTENCES as error:
            code = getattr(error, "exit_code", 2)
            self._say_goodbye(code, str(error) or type(error).__name__)
            raise
        except Exception as error:
            time.sleep(2 * roll_call.PING_SECONDS + self._patience(error))
            sentence = f"{type(error).__name__}; its own log says more."
            self._say_goodbye(PEER_LOST, sentence)
            raise
        self._leave_in_order()

    def _patience(self, error: Exception) -> float:
        """Seconds in which the reason of an error may still show elsewhere."""
        assert self._attendance is not None
        lost_peer = isinstance(error, jax.errors.JaxRuntimeError)
        out_of_memory = "RESOURCE_EXHAUSTED" in str(error)
        return self._attendance.silence if lost_peer and not out_of_memory else 0.0

    def _leave_in_order(self) -> None:
        """Process 0 goes last: with it, JAX's coordination service goes."""
        assert self._attendance is not None
        self._attendance.leave()
        if self._hub is not None:
            self._hub.wait_until_all_left()

    def _say_goodbye(self, code: int, sentence: str) -> None:
        assert self._attendance is not None
        self._attendance.leave(code, sentence)
        time.sleep(roll_call.LAST_WORDS_SECONDS)


ALONE = Processes()
"""The one process of a run without others."""


def start_processes(options: ProcessOptions) -> Processes:
    """Joins the other processes; call it before JAX is used for anything.

    Returns:
      `ALONE`, unless several processes are asked for or detected.

    Raises:
      ValueError: for options that do not fit together.
      PeerLost: if process 0 cannot be reached. Where others do not join, or one dies
        from here on, this process ends by itself with a sentence and exit code 76.
    """
    place = find_place(options)
    if place is None or place.count == 1:
        return ALONE
    _answer_aborts_slowly()
    attendance, hub = _join(place, options)
    _start_jax(place, options)
    logger.info(
        "process %d of %d on %s has %d of %d devices",
        place.index,
        place.count,
        attendance.hosts[place.index],
        jax.local_device_count(),
        jax.device_count(),
    )
    return Processes(attendance, hub)


def find_place(options: ProcessOptions) -> Place | None:
    """The place that options, the environment or a cluster give; None: alone.

    Raises:
      ValueError: if only some of coordinator, count and index are known.
    """
    coordinator = options.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    count = options.count or _number_from("JAX_NUM_PROCESSES", 0)
    index = options.index if options.index >= 0 else _number_from("JAX_PROCESS_ID", -1)
    given = [bool(coordinator), count > 0, index >= 0]
    if count == 1 or not any(given):
        return _detected(options) if options.detect and not any(given) else None
    if not all(given) or ":" not in coordinator or index >= count:
        raise ValueError(
            f"processes.coordinator {coordinator!r}, count {count} and index {index} "
            f"do not name a process; give HOST:PORT of process 0, the number of "
            f"processes, and a number below it."
        )
    return Place(coordinator, count, index)


def _number_from(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if text and not text.isdigit():
        raise ValueError(f"${variable} is {text!r}; give a whole number.")
    return int(text) if text else default


def _detected(options: ProcessOptions) -> Place | None:
    """What JAX knows of clusters; a task alone in Slurm or Open MPI is alone."""
    if "1" in (os.environ.get("SLURM_NTASKS"), os.environ.get("OMPI_COMM_WORLD_SIZE")):
        return None
    from jax._src.clusters import ClusterEnv

    coordinator, count, index, devices = (
        ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, int(options.start_timeout)
        )
    )
    if coordinator is None or count is None or index is None:
        if int(os.environ.get("JOB_COMPLETION_INDEX", "0")):
            raise ValueError(
                "this is not the first pod of a Kubernetes job, but JAX does not find "
                "the others; install jax[k8s], or give --processes.coordinator, count "
                "and index."
            )
        return None
    return Place(coordinator, count, index, tuple(devices) if devices else None)


def _join(
    place: Place, options: ProcessOptions
) -> tuple[Attendance, roll_call.Hub | None]:
    """Waits until all are there; ends the process if they are not."""
    deadline, hub = time.monotonic() + options.start_timeout, None
    if place.index:
        address = place.coordinator
        line, messages = roll_call.join(
            address, place.index, place.count, options.start_timeout
        )
    else:
        own, other = socket.socketpair()
        hub = roll_call.Hub(
            place.count,
            _listen(int(place.coordinator.rsplit(":", 1)[1]), deadline),
            other,
            start=options.start_timeout,
            silence=options.silence_timeout,
            barrier=options.barrier_timeout,
        )
        line = roll_call.Line(own)
        until = deadline + 2 * roll_call.PING_SECONDS
        messages = roll_call.greet(line, 0, place.count, until) or []
    hosts = next((m["hosts"] for m in messages if "hosts" in m), None)
    if hosts is None:
        code, sentence = messages[0]["end"]
        time.sleep(0 if place.index else roll_call.LAST_WORDS_SECONDS)
        raise _with_code(code, sentence)
    attendance = Attendance(
        line,
        place.index,
        hosts,
        silence=options.silence_timeout,
        barrier=options.barrier_timeout,
        end=_EndProcess(place.index),
    )
    return attendance, hub


def _with_code(code: int, sentence: str) -> RunError:
    return PeerLost(sentence) if code == PEER_LOST else RunError(sentence)


def _listen(port: int, deadline: float) -> socket.socket:
    """A listener at a port that an earlier run may still be leaving."""
    while True:
        try:
            return socket.create_server(("", port), backlog=4096)
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    f"port {port} of this host cannot be opened ({error.strerror}); "
                    f"give another one with --processes.coordinator."
                ) from error
            time.sleep(0.5)


@dataclasses.dataclass(frozen=True)
class _EndProcess:
    """Ends this process from the roll-call thread, whatever the main thread does."""

    index: int

    def __call__(self, code: int, sentence: str) -> None:
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        if self.index == 0:
            time.sleep(roll_call.LAST_WORDS_SECONDS)  # until all others know
        sys.stdout.flush()
        os._exit(code)


def _start_jax(place: Place, options: ProcessOptions) -> None:
    if jax.config.jax_platforms == "cpu":
        # Gloo gives up after 30 s, and a process may compile longer than the others.
        flag = "--xla_cpu_collective_timeout_seconds"
        flags = os.environ.get("XLA_FLAGS", "")
        if flag not in flags:
            timeout = int(options.barrier_timeout)
            os.environ["XLA_FLAGS"] = f"{flags} {flag}={timeout}".strip()
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=place.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(options.start_timeout),
        heartbeat_timeout_seconds=int(options.silence_timeout + _JAX_NOTICES_LATER),
        shutdown_timeout_seconds=int(options.silence_timeout),
    )


def _answer_aborts_slowly() -> None:
    """Gives the roll-call thread time to say why, when JAX aborts this process.

    JAX's client calls abort() from C++ the moment that process 0 is gone. The C
    library's sleep() is installed as the handler of that signal: it is called with the
    signal's number, 6, sleeps as many seconds on the aborting thread, and needs no
    Python. The roll-call thread has noticed too by then and exits with 76; if it is
    stuck, the abort goes on, so the process ends either way.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal.restype = ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))
