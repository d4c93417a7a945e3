"""Another process that takes training steps when asked, and waits while we take ours.

One JSON object per line: the process says what it has ready, then answers each request.
While it waits it reads its stdin and uses no core.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_LAST_LINES = 5
"""Lines of a dead process's stderr that its error quotes."""

_GOODBYE_SECONDS = 10.0


class PeerError(RuntimeError):
    """The peer cannot go on."""


class PeerRefusal(PeerError):
    """The peer could not do what it was asked; it may be asked for something else."""


class PeerProcess:
    """A running peer; leave its context to end it.

    Attributes:
      ready: what it said when it was ready.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        """Starts the command and waits until it is ready.

        Args:
          command: the program and its arguments.
          log: file for what it writes to stderr.
          environment: variables to set beside those of this process.

        Raises:
          PeerError: if it dies before.
        """
        self._log = log
        with log.open("w", encoding="utf-8") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=os.environ | dict(environment),
            )
        try:
            self.ready = self._answer()
        except PeerError:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Raises:
          PeerRefusal: if the answer is an error.
          PeerError: if the peer dies.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(dict(request)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        answer = json.loads(line)
        if "error" in answer:
            raise PeerRefusal(answer["error"])
        return answer

    def _death(self) -> PeerError:
        code = self._process.wait()
        written = self._log.read_text(encoding="utf-8").splitlines()
        last = " | ".join(written[-_LAST_LINES:])
        return PeerError(
            f"the peer process ended with status {code} and last wrote {last!r}; "
            "run its command by hand to see more."
        )

    def close(self) -> None:
        """Ends the process: politely, then not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        """The process, until the block is left."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process."""
        self.close()
