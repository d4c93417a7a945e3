"""Late data is seen as waiting, data in time is not, and nothing runs far ahead."""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.tiny_experiment import tiny_experiment
from unimod_jax.data import TextTokenizer, open_split, training_batches
from unimod_jax.training import Assembly
from unimod_jax.training.input_wait import EndWatcher, InputWait


@dataclasses.dataclass
class FakeMachine:
    """A host clock, and a device that takes queued steps one after the other."""

    now: float = 0.0
    ends: list[float] = dataclasses.field(default_factory=list)
    most_in_flight: int = 0

    def clock(self) -> float:
        return self.now

    def start(self, seconds: float) -> float:
        """Queues a step, at no cost to the host; returns when it will end."""
        begin = max([self.now, *self.ends[-1:]])
        self.ends.append(begin + seconds)
        in_flight = sum(end > self.now for end in self.ends)
        self.most_in_flight = max(self.most_in_flight, in_flight)
        return self.ends[-1]

    def watch(self, end: float) -> "FakeEnd":
        return FakeEnd(self, end)

    def make_batches(self, seconds: list[float]) -> Iterator[int]:
        """Batches that take so long when they are asked for."""
        for number, duration in enumerate(seconds):
            self.now += duration
            yield number


@dataclasses.dataclass
class FakeEnd:
    """The end of a step; whoever waits for it moves the clock."""

    machine: FakeMachine
    end: float

    def done(self) -> bool:
        return self.machine.now >= self.end

    def result(self) -> float:
        self.machine.now = max(self.machine.now, self.end)
        return self.end


def train(
    fetch_seconds: list[float], step_seconds: list[float]
) -> tuple[FakeMachine, list[float]]:
    """A run on a fake machine; returns it and the seconds waited at each step."""
    machine = FakeMachine()
    wait = InputWait(machine.watch, machine.clock)
    batches, waited = machine.make_batches(fetch_seconds), []
    for number, seconds in enumerate(step_seconds):
        assert wait.next_batch(batches) == number
        waited.append(wait.take_seconds())
        wait.step_started(machine.start(seconds))
    return machine, waited


def test_data_in_time_is_not_waited_for():
    _, waited = train([2.0] * 5, [3.0] * 5)
    # Nothing ran while the first was made.
    assert waited == [2.0, 0.0, 0.0, 0.0, 0.0]


def test_late_data_is_waited_for_from_the_end_of_the_step():
    _, waited = train([5.0] * 4, [3.0] * 4)
    assert waited == [5.0, 2.0, 2.0, 2.0]


def test_one_late_batch_is_waited_for_once():
    _, waited = train([1.0, 1.0, 1.0, 7.0, 1.0], [3.0] * 5)
    assert waited == [1.0, 0.0, 0.0, 4.0, 0.0]


SECONDS = st.integers(0, 9).map(float)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=12))
def test_a_device_runs_a_step_or_waits_for_data(durations):
    """Here data are all that can be late, so what is not spent on steps is waiting."""
    fetch, steps = ([*column] for column in zip(*durations, strict=True))
    machine, waited = train(fetch, steps)
    assert machine.ends[-1] == sum(steps) + sum(waited)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=12))
def test_at_most_one_step_is_queued_behind_the_one_that_runs(durations):
    fetch, steps = ([*column] for column in zip(*durations, strict=True))
    machine, _ = train(fetch, steps)
    assert machine.most_in_flight <= 2


def test_a_fast_host_keeps_a_step_queued_behind_the_one_that_runs():
    machine, _ = train([0.0] * 5, [3.0] * 5)
    assert machine.most_in_flight == 2


def test_what_the_host_does_before_it_asks_is_not_waiting_for_data():
    machine = FakeMachine()
    wait = InputWait(machine.watch, machine.clock)
    wait.step_started(machine.start(3.0))
    machine.now += 8.0  # writes a checkpoint
    wait.next_batch(machine.make_batches([1.0]))
    assert wait.take_seconds() == 1.0


def test_seconds_are_taken_once():
    machine = FakeMachine()
    wait = InputWait(machine.watch, machine.clock)
    wait.next_batch(machine.make_batches([5.0]))
    assert [wait.take_seconds(), wait.take_seconds()] == [5.0, 0.0]


# --- The thread at the end of steps ---------------------------------------------------


class Blocking:
    """An array of a step that ends when it is told to."""

    def __init__(self, failure: Exception | None = None):
        self.may_end = threading.Event()
        self.failure = failure

    def block_until_ready(self) -> "Blocking":
        self.may_end.wait()
        if self.failure:
            raise self.failure
        return self


@pytest.fixture
def watcher() -> Iterator[EndWatcher]:
    watcher = EndWatcher(clock=iter([7.0, 8.0]).__next__)
    yield watcher
    watcher.close()


def test_the_end_of_a_step_is_when_its_outputs_are_there(watcher: EndWatcher):
    outputs = Blocking()
    end = watcher({"loss": outputs})
    assert not end.done()
    outputs.may_end.set()
    assert end.result() == 7.0
    assert watcher(jnp.ones(3)).result() == 8.0


def test_a_step_that_fails_is_told_to_who_asks_for_its_end(watcher: EndWatcher):
    outputs = Blocking(RuntimeError("out of memory"))
    end = watcher(outputs)
    outputs.may_end.set()
    with pytest.raises(RuntimeError, match="out of memory"):
        end.result()


# --- With the real pipeline -----------------------------------------------------------


def test_the_iterators_state_is_that_of_the_batches_trained_on(data_directory: Path):
    experiment = tiny_experiment(data_directory)
    assembly = Assembly(experiment)
    records = open_split(experiment.data, experiment.data.train_split)
    captions = [text for record in records for text in record.texts]
    tokenizer = TextTokenizer.train(captions, assembly.vocabulary)
    dataset = training_batches(
        experiment.data, assembly.layouts, assembly.rows, records, tokenizer
    )
    machine = FakeMachine()
    wait = InputWait(machine.watch, machine.clock)
    undisturbed, trained, resumed = (iter(dataset) for _ in range(3))
    for _ in range(3):
        next(undisturbed)
        wait.next_batch(trained)
        wait.step_started(machine.start(1.0))
    # One step still runs, and the pipeline has prepared batches beyond it.
    assert machine.ends[-1] > machine.now
    resumed.set_state(trained.get_state())
    jax.tree.map(
        np.testing.assert_array_equal, wait.next_batch(resumed), next(undisturbed)
    )
    for iterator in (undisturbed, trained, resumed):
        iterator.close()
