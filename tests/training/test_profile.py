"""`--profile` traces the steps it names, and only those."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from unimod_jax.training import ProfileSteps, RunError
from unimod_jax.training.profile import SETTLING_STEPS, StepTrace


def test_a_range_names_its_first_step_and_the_one_after_its_last():
    assert ProfileSteps.parse("10:13") == ProfileSteps(10, 3)
    assert ProfileSteps.parse("4") == ProfileSteps(0, 4)


@pytest.mark.parametrize("text", ["", "x", "0", "3:3", "5:2", "0:2", ":4", "4:", "-1"])
def test_what_names_no_steps_is_refused(text: str):
    with pytest.raises(ValueError, match="names no steps; give FIRST:END"):
        ProfileSteps.parse(text)


def traced(steps: ProfileSteps | None, first: int, last: int, monkeypatch) -> list[int]:
    """The steps that are traced of a run from one step to another."""
    running, found = [False], []

    def switch(on: bool):
        return lambda *arguments: running.__setitem__(0, on)

    monkeypatch.setattr(jax.profiler, "start_trace", switch(True))
    monkeypatch.setattr(jax.profiler, "stop_trace", switch(False))
    trace = StepTrace(steps, Path("profile"), first, last)
    for step in range(first, last + 1):
        trace.before(step)
        found += [step] if running[0] else []
        trace.after(step, jnp.ones(2))
    assert not running[0]
    return found


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (None, []),
        (ProfileSteps(10, 3), [10, 11, 12]),
        (ProfileSteps(7, 1), [7]),
        (ProfileSteps(0, 2), [7 + SETTLING_STEPS, 8 + SETTLING_STEPS]),
    ],
    ids=str,
)
def test_the_steps_that_were_named_are_traced(steps, expected, monkeypatch):
    assert traced(steps, 7, 20, monkeypatch) == expected


@pytest.mark.parametrize("text", ["6:8", "19:22", "15"])
def test_steps_that_will_not_be_taken_are_refused(text: str):
    with pytest.raises(RunError, match=r"this start takes steps 7 to 20; choose"):
        StepTrace(ProfileSteps.parse(text), Path("profile"), 7, 20)


def test_a_run_that_ends_early_ends_its_trace(tmp_path: Path):
    trace = StepTrace(ProfileSteps(1, 5), tmp_path, 1, 20)
    trace.before(1)
    jax.block_until_ready(jnp.ones(3) + 1)
    trace.close()
    trace.close()
    assert list(tmp_path.rglob("*.xplane.pb"))
