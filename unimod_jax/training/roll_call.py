"""Who is here: one connection from every process to process 0, from start to end.

    process 1 --+
    process 2 --+--> process 0: knows who joined, who waits where, who is gone
    process 3 --+

JAX's coordination service would tell too, but late and not us: a process that never
joins or dies makes its client end every other process from C++ (`LOG(FATAL)`, no
exception, no names), and the callback that could say more aborts in jaxlib 0.12. Here
a process that dies is known when the kernel closes its connection, one whose host
vanished after `silence` seconds without a word; process 0 tells all others.

The first connections are made to the port that JAX's service takes over afterwards, so
no other port is needed. Lines of JSON go over them, of one key each:

    member to hub    join, here (a barrier, with a value), leave, {} (still alive)
    hub to member    hosts, passed (a barrier, with all values), end, {}
"""

import json
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from unimod_jax.training.endings import PEER_LOST, PeerLost

PING_SECONDS = 2.0
"""A word from everyone at least this often; `silence` must be several times as long."""

LAST_WORDS_SECONDS = 2.0
"""Process 0 stays this long after the others were told why they end."""

_TICK_SECONDS = 0.25
_SEND_SECONDS = 10.0
_LINE_BYTES = 2**24
"""A longer line is not ours."""


def readable(sockets: Sequence[socket.socket]) -> list[socket.socket]:
    """Those with something to read, within a quarter of a second."""
    poll = select.poll()  # select() knows no more than 1,024 files
    by_number = {each.fileno(): each for each in sockets}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(1000 * _TICK_SECONDS)]


class Line:
    """A socket that carries lines of JSON; safe to send from several threads."""

    def __init__(self, connection: socket.socket):
        """Takes over a connected socket."""
        connection.settimeout(_SEND_SECONDS)
        self.socket = connection
        self.heard = time.monotonic()
        self._buffer = b""
        self._sending = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Sends one message; OSError if the other side is gone."""
        with self._sending:
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have come; call it when there is something to read.

        Raises:
          OSError: if the other side is gone.
          ValueError: if it does not speak this language.
        """
        read = self.socket.recv(2**16)
        if not read:
            raise ConnectionResetError("closed")
        self.heard = time.monotonic()
        *lines, self._buffer = (self._buffer + read).split(b"\n")
        if len(self._buffer) > _LINE_BYTES:
            raise ValueError("the line is too long")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a message is not an object")
        return messages

    def close(self) -> None:
        """Closes the connection."""
        self.socket.close()


class Hub:
    """Process 0's list of who is here; a thread runs it until all have left."""

    def __init__(
        self,
        count: int,
        listener: socket.socket,
        own: socket.socket,
        *,
        start: float,
        silence: float,
        barrier: float,
    ):
        """Starts the thread.

        Args:
          count: processes of the run.
          listener: where the others connect; closed when all have joined.
          own: process 0's own end, from `socket.socketpair`.
          start: seconds in which all must join.
          silence: seconds without a word after which a process counts as dead.
          barrier: seconds that the first at a barrier waits for the last.
        """
        self._count = count
        self._start, self._silence, self._barrier = start, silence, barrier
        self._deadline = time.monotonic() + start
        self._listener: socket.socket | None = listener
        self._strangers = [Line(own)]
        self._members: dict[int, Line] = {}
        self._hosts: dict[int, str] = {}
        self._left: set[int] = set()
        self._waiting: dict[str, tuple[float, dict[int, Any]]] = {}
        self._ended = False
        self._thread = threading.Thread(
            target=self._run, name="roll-call-hub", daemon=True
        )
        self._thread.start()

    def wait_until_all_left(self) -> None:
        """Returns when all have said goodbye, or `silence` seconds later."""
        self._thread.join(self._silence)

    def _run(self) -> None:
        try:
            self._serve()
            self._listen_out()
        finally:
            for line in [*self._strangers, *self._members.values()]:
                line.close()
            if self._listener:
                self._listener.close()

    def _listen_out(self) -> None:
        """Reads on until the others have hung up: closing on unread words resets the
        connection, and what they were told last could be lost."""
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while self._members and time.monotonic() < deadline:
            lines = list(self._members.items())
            ready = readable([line.socket for _, line in lines])
            for index, line in lines:
                try:
                    if line.socket in ready:
                        line.receive()
                except (OSError, ValueError):
                    self._members.pop(index).close()

    def _serve(self) -> None:
        pinged = time.monotonic()
        while not self._ended and len(self._left) < self._count:
            lines = [*self._strangers, *self._members.values()]
            sockets = [line.socket for line in lines]
            listening = [self._listener] if self._listener else []
            ready = readable([*sockets, *listening])
            for line in lines:
                if line.socket in ready:
                    self._read(line)
            if self._listener in ready:
                connection, _ = self._listener.accept()
                self._strangers.append(Line(connection))
            if time.monotonic() - pinged > PING_SECONDS:
                pinged = time.monotonic()
                self._tell({})
            self._check_clocks(time.monotonic())

    def _read(self, line: Line) -> None:
        index = next((i for i, known in self._members.items() if known is line), None)
        try:
            for message in line.receive():
                if index is None:
                    index = self._join(line, message)
                else:
                    self._hear(index, message)
        except (OSError, ValueError, KeyError, TypeError):
            if index is None:
                self._strangers.remove(line)  # a port scanner, or who gave up
                line.close()
            elif index in self._members:
                self._drop(index)

    def _join(self, line: Line, message: dict[str, Any]) -> int:
        index, count, host = message["join"]
        if count != self._count or index in self._members or index >= self._count:
            there = self._hosts.get(index, "another one")
            line.send({"end": [2, _misfit(index, count, host, self._count, there)]})
            raise ValueError("does not fit")
        self._strangers.remove(line)
        self._members[index], self._hosts[index] = line, host
        if len(self._members) == self._count and self._listener:
            self._listener.close()  # JAX's coordination service listens here from now
            self._listener = None
            self._tell({"hosts": [self._hosts[i] for i in range(self._count)]})
        return index

    def _hear(self, index: int, message: dict[str, Any]) -> None:
        if "here" in message:
            name, value = message["here"]
            _, values = self._waiting.setdefault(name, (time.monotonic(), {}))
            values[index] = value
            if len(values) == self._count:
                del self._waiting[name]
                every = [values[i] for i in range(self._count)]
                self._tell({"passed": [name, every]})
        elif "leave" in message:
            code, sentence = message["leave"]
            self._left.add(index)
            self._members.pop(index).close()
            if code:
                self._end(code, f"{self._name(index)} stopped: {sentence}")

    def _drop(self, index: int) -> None:
        self._members.pop(index).close()
        if index not in self._left:
            self._end(PEER_LOST, f"{self._name(index)} died; {_AGAIN}")

    def _check_clocks(self, now: float) -> None:
        if self._listener and now > self._deadline:
            here = ", ".join(self._name(i) for i in sorted(self._members))
            missing = [i for i in range(self._count) if i not in self._members]
            self._end(
                PEER_LOST,
                f"{_numbers(missing)} of {self._count} did not join within "
                f"{self._start:g} s, only {here}; start the same command on every "
                f"host, and see that all of them reach process 0.",
            )
        for index, line in list(self._members.items()):
            if now - line.heard > self._silence:
                self._end(
                    PEER_LOST,
                    f"{self._name(index)} has been silent for {self._silence:g} s; "
                    f"{_AGAIN}",
                )
        for name, (since, values) in list(self._waiting.items()):
            if now - since > self._barrier:
                missing = [i for i in range(self._count) if i not in values]
                names = ", ".join(self._name(i) for i in missing)
                self._end(
                    PEER_LOST,
                    f"{names} did not come to {name!r} within {self._barrier:g} s; "
                    f"{_AGAIN}",
                )

    def _name(self, index: int) -> str:
        return f"process {index} ({self._hosts.get(index, 'unknown host')})"

    def _tell(self, message: dict[str, Any]) -> None:
        for index, line in list(self._members.items()):
            try:
                line.send(message)
            except OSError:
                self._drop(index)

    def _end(self, code: int, sentence: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._tell({"end": [code, sentence]})


_AGAIN = "run the same command again to resume from the last checkpoint."


def _numbers(missing: Sequence[int]) -> str:
    listed = ", ".join(str(index) for index in missing)
    return f"process {listed}" if len(missing) == 1 else f"processes {listed}"


def _misfit(index: int, count: int, host: str, expected: int, there: str) -> str:
    if count != expected:
        return (
            f"process {index} ({host}) was started as one of {count} processes but "
            f"process 0 as one of {expected}; give all the same --processes.count."
        )
    return (
        f"process {index} ({host}) cannot join: {there} has that number, or it is not "
        f"below {expected}; give every process its own --processes.index."
    )


def join(
    address: str, index: int, count: int, start: float
) -> tuple[Line, list[dict[str, Any]]]:
    """Connects to process 0 and waits until all processes are there.

    Args:
      address: host:port of process 0.
      index: which process this is, of `count`.
      count: processes of the run.
      start: seconds to keep trying.

    Returns:
      (the line, the messages that came with the last one: "hosts" or "end").

    Raises:
      PeerLost: if process 0 cannot be reached.
    """
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + start
    missing = "process 0 could not be reached"
    while (now := time.monotonic()) < deadline:
        try:
            connection = socket.create_connection((host, int(port)), deadline - now)
        except OSError:
            time.sleep(_TICK_SECONDS)
            continue
        line = Line(connection)
        try:
            if messages := greet(line, index, count, deadline + PING_SECONDS):
                return line, messages
            missing = "process 0 was reached, but not all processes joined"
        except (OSError, ValueError):
            time.sleep(_TICK_SECONDS)
        line.close()
    raise PeerLost(
        f"{missing} at {address} within {start:g} s; start the same command on the "
        f"hosts of all {count} processes, and see that they reach that port."
    )


def greet(
    line: Line, index: int, count: int, deadline: float
) -> list[dict[str, Any]] | None:
    """Says who this is and waits for all others; None if nothing came until then.

    Raises:
      OSError, ValueError: where not the hub answers, such as JAX's service of a run
        that is just ending.
    """
    line.send({"join": [index, count, socket.gethostname()]})
    pinged = time.monotonic()
    while time.monotonic() < deadline:
        if readable([line.socket]):
            messages = line.receive()
            for at, message in enumerate(messages):
                if "hosts" in message or "end" in message:
                    return messages[at:]
        if time.monotonic() - pinged > PING_SECONDS:
            pinged = time.monotonic()
            line.send({})
    return None
