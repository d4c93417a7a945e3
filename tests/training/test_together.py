"""Who fails, how, and what the others are told."""

import contextlib

import jax
import pytest

from unimod_jax.training import Preempted, RunError, processes, roll_call
from unimod_jax.training.processes import Processes


class Attendance:
    """A roll call that notes what is said; no one else is there."""

    def __init__(self) -> None:
        self.index, self.hosts, self.silence = 1, ["a", "b"], 60.0
        self.said: list[object] = []

    def gather(self, name: str, value: object = None) -> list[object]:
        self.said.append(name)
        return [value, value]

    def leave(self, code: int = 0, sentence: str = "") -> None:
        self.said.append((code, sentence))


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(processes.time, "sleep", seconds.append)
    return seconds


def said(error: Exception | None) -> list[object]:
    """What the others hear from a process that fails, or does not."""
    attendance = Attendance()
    with contextlib.suppress(Exception), Processes(attendance).together():
        if error is not None:
            raise error
    return attendance.said


def test_all_end_together():
    assert said(None) == ["end of the run", (0, "")]


def test_who_was_told_to_stop_waits_for_the_others_and_blames_nobody():
    assert said(Preempted("saved.")) == ["end of the run", (0, "")]


def test_a_sentence_is_passed_on_with_its_exit_code(slept):
    assert said(RunError("lower it.")) == [(2, "lower it.")]
    assert slept == [roll_call.LAST_WORDS_SECONDS]


def test_a_bug_lets_the_others_start_again(slept):
    assert said(KeyError("x")) == [(76, "KeyError; its own log says more.")]
    assert slept[0] < 10


def test_a_failed_collective_waits_for_who_is_missing(slept):
    assert said(jax.errors.JaxRuntimeError("UNKNOWN: Gloo: closed"))[0][0] == 76
    assert slept[0] > 60


def test_running_out_of_memory_is_nobody_elses_fault(slept):
    said(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
    assert slept[0] < 10
