"""Process 0 knows who is there, who waits, who is gone, and everyone hears of it."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.training.two_processes import free_port
from unimod_jax.training import attendance, roll_call
from unimod_jax.training.attendance import Attendance
from unimod_jax.training.endings import PEER_LOST, PeerLost
from unimod_jax.training.roll_call import Hub, Line, greet, join


@dataclasses.dataclass
class Member:
    """One end of a roll call in a thread of this test."""

    index: int
    line: Line
    attendance: Attendance | None = None
    ended: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def sentence(self) -> str:
        """What it was told when the run ended."""
        wait_for(lambda: bool(self.ended))
        return self.ended[0][1]


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


class Run:
    """A roll call of `count` processes; those of `joining` come."""

    def __init__(self, count: int, joining: range | None = None, **clocks: float):
        clocks = {"start": 10.0, "silence": 60.0, "barrier": 60.0} | clocks
        self.count, self.port, self.clocks = count, free_port(), clocks
        own, other = socket.socketpair()
        self.members = {0: Member(0, Line(own))}
        listener = socket.create_server(("", self.port))
        self.hub = Hub(count, listener, other, **clocks)
        self.joining = [
            threading.Thread(target=self._join, args=(index,))
            for index in (joining or range(count))
        ]
        for thread in self.joining:
            thread.start()
        if joining is None:
            self.wait()

    def wait(self) -> None:
        """Until those who join have joined, or were told that they cannot."""
        for thread in self.joining:
            thread.join()

    def _join(self, index: int) -> None:
        if index:
            address = f"127.0.0.1:{self.port}"
            line, messages = join(address, index, self.count, self.clocks["start"])
        else:
            line = self.members[0].line
            messages = greet(line, 0, self.count, time.monotonic() + 20) or []
        member = self.members[index] = Member(index, line)
        if "end" in messages[0]:
            member.ended.append(tuple(messages[0]["end"]))
            return
        member.attendance = Attendance(
            line,
            index,
            messages[0]["hosts"],
            silence=self.clocks["silence"],
            barrier=self.clocks["barrier"],
            end=lambda code, sentence: member.ended.append((code, sentence)),
        )

    def gather(self, name: str, values: dict[int, object]) -> dict[int, list]:
        """Those of `values` come to a barrier."""
        found: dict[int, list] = {}

        def come(index: int) -> None:
            here = self.members[index].attendance
            assert here is not None
            with contextlib.suppress(PeerLost):
                found[index] = here.gather(name, values[index])

        threads = [
            threading.Thread(target=come, args=(index,), daemon=True)
            for index in values
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        return found

    def close(self) -> None:
        self.wait()
        for member in self.members.values():
            if member.attendance:
                member.attendance._left = True
                member.attendance._thread.join(10)
        self.hub._ended = True
        for member in self.members.values():
            member.line.close()
        self.hub._thread.join(10)


@pytest.fixture
def open_run() -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def opened(*arguments: int, **options: object) -> Run:
        runs.append(Run(*arguments, **options))
        return runs[-1]

    yield opened
    for run in runs:
        run.close()


def test_all_know_the_hosts_of_all(open_run):
    run = open_run(3)
    for member in run.members.values():
        assert member.attendance.hosts == [socket.gethostname()] * 3


def test_a_barrier_gives_everyone_all_values_in_order(open_run):
    run = open_run(3)
    found = run.gather("steps", {2: {"c": 3}, 0: "a", 1: None})
    assert found == {i: ["a", None, {"c": 3}] for i in range(3)}
    again = run.gather("steps", {0: 1, 1: 2, 2: 3})
    assert again == {i: [1, 2, 3] for i in range(3)}


def test_nobody_passes_a_barrier_before_the_last_has_come(open_run):
    run = open_run(3)
    first_two = threading.Thread(target=run.gather, args=("x", {0: 0, 1: 0}))
    first_two.start()
    time.sleep(0.6)
    assert first_two.is_alive()
    run.gather("x", {2: 0})
    first_two.join(5)
    assert not first_two.is_alive()


def test_a_death_is_told_to_all_others_at_once(open_run):
    run = open_run(3)
    run.members[1].attendance._left = True  # no more words, not even the last ones
    run.members[1].line.close()
    host = socket.gethostname()
    for index in (0, 2):
        assert f"process 1 ({host}) died" in run.members[index].sentence()
        assert run.members[index].ended[0][0] == PEER_LOST


def test_the_death_of_process_0_is_noticed_by_all_others(open_run):
    run = open_run(3)
    run.hub._ended = True
    for line in list(run.hub._members.values()):
        line.close()
    for index in (1, 2):
        assert "process 0 (" in run.members[index].sentence()


def test_a_silent_host_counts_as_dead(open_run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(roll_call, "PING_SECONDS", 0.2)
    run = open_run(2, silence=1.5)
    run.members[1].attendance._left = True  # alive, but its thread says nothing more
    assert "has been silent for 1.5 s" in run.members[0].sentence()


def test_who_did_not_come_to_a_barrier_is_named(
    open_run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attendance, "_GRACE_SECONDS", 1.0)
    run = open_run(3, barrier=0.5)
    run.gather("first step", {0: 0, 2: 0})
    for member in run.members.values():
        assert "process 1 (" in member.sentence()
        assert "did not come to 'first step' within 0.5 s" in member.sentence()


def test_who_never_joins_is_named_to_those_who_did(open_run):
    run = open_run(4, joining=range(0, 4, 2), start=1.0)
    run.wait()
    for index in (0, 2):
        sentence = run.members[index].sentence()
        assert "processes 1, 3 of 4 did not join within 1 s" in sentence
        assert "only process 0 (" in sentence and "process 2 (" in sentence


def test_process_0_that_never_comes_is_named():
    with pytest.raises(PeerLost, match=r"process 0 could not be reached at .* 0.5 s"):
        join(f"127.0.0.1:{free_port()}", 1, 2, 0.5)


def test_two_processes_of_one_number_are_refused(open_run):
    run = open_run(3, joining=range(2), start=3.0)
    wait_for(lambda: len(run.hub._members) == 2)
    line, messages = join(f"127.0.0.1:{run.port}", 1, 3, 3.0)
    code, sentence = messages[0]["end"]
    assert code == 2 and "process 1 (" in sentence and "--processes.index" in sentence
    line.close()


@pytest.mark.parametrize("speech", [b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b'["join"]\n'])
def test_strangers_at_the_port_are_shown_out(speech: bytes):
    port = free_port()
    own, other = socket.socketpair()
    clocks = {"start": 10.0, "silence": 60.0, "barrier": 60.0}
    hub = Hub(2, socket.create_server(("", port)), other, **clocks)
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(speech)
        assert stranger.recv(100) == b""
    hub._ended = True
    own.close()
    hub._thread.join(10)


def test_who_fails_with_a_sentence_ends_the_others_with_it(open_run):
    run = open_run(3)
    run.members[2].attendance.leave(2, "the disk is full.")
    for index in (0, 1):
        assert run.members[index].sentence().endswith("stopped: the disk is full.")
        assert run.members[index].ended[0][0] == 2
    assert not run.members[2].ended


def test_who_leaves_in_order_is_not_missed(open_run):
    run = open_run(2)
    for index in (1, 0):
        run.members[index].attendance.leave()
    time.sleep(0.6)
    assert not run.members[0].ended and not run.members[1].ended
