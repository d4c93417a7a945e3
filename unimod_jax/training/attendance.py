"""A process's side of the roll call: barriers, and what happens when someone is gone.

A thread keeps the connection to process 0 alive and listens. When process 0 says that
the run cannot go on, or is gone itself, the thread prints one sentence and ends this
process at once: the main thread may be inside a collective that never returns.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from unimod_jax.training.endings import PEER_LOST, PeerLost
from unimod_jax.training.roll_call import PING_SECONDS, Line, readable

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 10.0
"""Process 0 speaks of a barrier that is overdue first; this much later, we do."""


class Attendance:
    """This process among the others, once all have joined."""

    def __init__(
        self,
        line: Line,
        index: int,
        hosts: list[str],
        *,
        silence: float,
        barrier: float,
        end: Callable[[int, str], None],
    ):
        """Starts the thread.

        Args:
          line: the connection to process 0.
          index: which process this is.
          hosts: host name of every process.
          silence: seconds without a word after which process 0 counts as dead.
          barrier: seconds to wait at a barrier.
          end: called on the thread with an exit code and a sentence.
        """
        self.index, self.hosts = index, hosts
        self._line, self.silence, self._barrier = line, silence, barrier
        self._end = end
        self._left = False
        self._passed: dict[str, list[Any]] = {}
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="roll-call", daemon=True)
        self._thread.start()

    def gather(self, name: str, value: Any = None) -> list[Any]:
        """A barrier: waits until all processes are here; returns everyone's value.

        Args:
          name: the same on all processes; for the log, and for who is missed.
          value: anything that JSON can hold.

        Raises:
          PeerLost: if it took too long.
        """
        logger.info("process %d waits at %r", self.index, name)
        since = time.monotonic()
        with self._news:
            self._send({"here": [name, value]})
            patience = self._barrier + _GRACE_SECONDS
            if not self._news.wait_for(lambda: name in self._passed, patience):
                raise PeerLost(
                    f"process {self.index} waited {patience:g} s at {name!r}; run the "
                    f"same command again."
                )
            values = self._passed.pop(name)
        logger.info(
            "process %d passed %r after %.1f s",
            self.index,
            name,
            time.monotonic() - since,
        )
        return values

    def leave(self, code: int = 0, sentence: str = "") -> None:
        """Says goodbye; with a code, process 0 ends the others with it too."""
        self._left = True
        self._send({"leave": [code, sentence]})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._line.send(message)
        except OSError:
            self._lost("died")

    def _run(self) -> None:
        pinged = time.monotonic()
        while not self._left:
            ready = readable([self._line.socket])
            try:
                for message in self._line.receive() if ready else []:
                    self._hear(message)
                if time.monotonic() - pinged > PING_SECONDS:
                    pinged = time.monotonic()
                    self._line.send({})
            except (OSError, json.JSONDecodeError):
                self._lost("died")
                return
            if time.monotonic() - self._line.heard > self.silence:
                self._lost(f"has been silent for {self.silence:g} s")
                return

    def _hear(self, message: dict[str, Any]) -> None:
        if "end" in message:
            self._end(*message["end"])
        elif "passed" in message:
            with self._news:
                name, values = message["passed"]
                self._passed[name] = values
                self._news.notify_all()

    def _lost(self, what: str) -> None:
        if not self._left:
            self._end(
                PEER_LOST,
                f"process 0 ({self.hosts[0]}) {what}; run the same command again to "
                f"resume from the last checkpoint.",
            )
