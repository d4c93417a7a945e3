"""Timing by taking turns: a machine that warms up or slows down does so for everyone.

A sample is a few calls in a row and one wait at the end, so that starting a kernel from
Python hides behind the kernel before it; a sample is long enough for the clock.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Clock = Callable[[], float]

# Most calls in one sample: kernels of a few microseconds would ask for thousands.
_MOST_CALLS = 200


class Run(NamedTuple):
    """A computation that can be started, and waited for.

    `start` returns when the work is queued, or done; `wait` takes what the last start
    returned and returns when it is there, with everything queued before it. `prepare`
    comes before every sample and does not count.
    """

    start: Callable[[], Any]
    wait: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


class Samples(NamedTuple):
    """Seconds per call of each sample, or why there are none."""

    seconds: list[float]
    calls: int
    failure: Exception | None


class Budget:
    """Seconds of wall clock, and a record of what was dropped to stay within them."""

    def __init__(self, seconds: float, clock: Clock = time.perf_counter) -> None:
        self.seconds = seconds
        self.dropped: list[str] = []
        self._clock = clock
        self._start = clock()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._start

    @property
    def is_spent(self) -> bool:
        """Whether nothing more should be begun."""
        return self.spent >= self.seconds

    def report(self) -> dict[str, Any]:
        """What the results say of it: never silent about what is missing."""
        return {
            "seconds": self.seconds,
            "spent": round(self.spent, 1),
            "dropped": self.dropped,
        }


def take_turns(
    runs: Mapping[str, Run],
    *,
    repeats: int,
    sample_seconds: float,
    budget: Budget,
    fewest: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, Samples]:
    """Time runs in rounds, one sample of each per round.

    The first call of each is a warm-up, and the second says how many calls make a
    sample; neither counts. A run that raises leaves the game. When the budget is spent
    the remaining rounds are dropped, but never the first ones.

    Args:
      runs: what to time, warmed up or not.
      repeats: rounds.
      sample_seconds: least length of a sample; 0 for one call, as on a CPU, where
        calls that are queued run side by side.
      budget: looked at between rounds.
      fewest: rounds that are never dropped.
      clock: seconds.
    """
    samples = {name: Samples([], 1, None) for name in runs}
    for name, run in runs.items():
        try:
            _seconds_per_call(run, 1, clock)
            single = _seconds_per_call(run, 1, clock)
        except Exception as failure:
            samples[name] = Samples([], 0, failure)
            continue
        calls = math.ceil(sample_seconds / single) if single > 0 else _MOST_CALLS
        samples[name] = Samples([], min(max(calls, 1), _MOST_CALLS), None)
    for round_number in range(1, repeats + 1):
        for name, (seconds, calls, failure) in samples.items():
            if failure is not None:
                continue
            try:
                seconds.append(_seconds_per_call(runs[name], calls, clock))
            except Exception as late_failure:
                samples[name] = Samples([], calls, late_failure)
        if budget.is_spent and round_number >= fewest:
            break
    return samples


def seconds_in_turns(
    runs: Mapping[str, Run], *, repeats: int, budget: Budget, fewest: int = 1
) -> dict[str, list[float]]:
    """Seconds of runs that must not fail, of single calls that take turns.

    Args:
      runs, repeats, budget, fewest: as of `take_turns`.

    Raises:
      Exception: whatever a run raised.
    """
    taken = take_turns(
        runs, repeats=repeats, sample_seconds=0.0, budget=budget, fewest=fewest
    )
    for samples in taken.values():
        if samples.failure is not None:
            raise samples.failure
    return {name: samples.seconds for name, samples in taken.items()}


def _seconds_per_call(run: Run, calls: int, clock: Clock) -> float:
    run.prepare()
    begin = clock()
    result = None
    for _ in range(calls):
        result = run.start()
    run.wait(result)
    return (clock() - begin) / calls
