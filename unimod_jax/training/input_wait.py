"""Waiting for data: the time a device has nothing to do because no batch has come.

The host starts steps and does not wait for them: while one runs it asks for the next
batch, moves it to the devices and queues the step behind. So time spent asking is no
loss as long as a step runs; from the moment it ends, it is. The host is busy asking and
does not see that moment, hence a thread stands at the end of each step with a clock.

    host     asks | starts 7, asks | starts 8, asks ................. | starts 9
    device   6 -------------------- 7 --------------- 8 ------- waits  9 --------

Two steps are in flight at most, one that runs and one behind it. A host that ran on
further would notice late data only when the queue is empty, and would hold a batch in
memory for every step in it. No batch is taken before its step can be queued: the state
of the data iterator is always that of the batches trained on, so runs resume exactly.
"""

import collections
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax

Clock = Callable[[], float]

STEPS_IN_FLIGHT = 2
"""One that runs, and one that can begin at once when it ends."""


class StepEnd(Protocol):
    """The end of a step that was started, such as `Future[float]`."""

    def done(self) -> bool:
        """Whether the step has ended."""
        ...

    def result(self) -> float:
        """Waits for the end; returns its time."""
        ...


class EndWatcher:
    """A thread that waits for steps, one after the other, and notes when each ended.

    It sleeps meanwhile. Where other threads run Python it may wake late, by what the
    interpreter lets a thread run on for (5 ms), and only while something is waited for.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Starts no thread yet; `clock` must be that of `InputWait`."""
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="end-of-step")

    def __call__(self, outputs: Any) -> Future[float]:
        """The end of the step that makes these arrays; raises what the step raises."""
        return self._thread.submit(self._wait_for, outputs)

    def _wait_for(self, outputs: Any) -> float:
        jax.block_until_ready(outputs)
        return self._clock()

    def close(self) -> None:
        """Waits for the last step and ends the thread."""
        self._thread.shutdown()


class InputWait:
    """Takes batches for a training loop and adds up how long the device waited.

    Between `next_batch` and `step_started` the loop starts one step.
    """

    def __init__(
        self, watch: Callable[[Any], StepEnd], clock: Clock = time.monotonic
    ) -> None:
        """Starts with a device that has nothing to do.

        Args:
          watch: the outputs of a step -> its end; see `EndWatcher`.
          clock: seconds.
        """
        self._watch = watch
        self._clock = clock
        self._started: collections.deque[StepEnd] = collections.deque()
        self._waited = 0.0

    def next_batch[Batch](self, batches: Iterator[Batch]) -> Batch:
        """The next batch; counts the time in which no step ran meanwhile."""
        asked = self._clock()
        batch = next(batches)
        self._waited += self._idle_seconds(asked, self._clock())
        return batch

    def step_started(self, outputs: Any) -> None:
        """Notes that a step was started, and waits until it may have a follower.

        Args:
          outputs: arrays that the step makes and no later step is given, such as its
            metrics (its state is donated to the next one).
        """
        self._started.append(self._watch(outputs))
        while len(self._started) >= STEPS_IN_FLIGHT:
            self._started.popleft().result()

    def take_seconds(self) -> float:
        """Seconds waited since this was last asked, or since the beginning."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _idle_seconds(self, since: float, until: float) -> float:
        """How much of an interval up to now lies after the end of the last step."""
        if not self._started:
            return until - since
        last = self._started[-1]
        return max(0.0, until - max(since, last.result())) if last.done() else 0.0
