"""Every second belongs to one part, and the file says to which."""

import json

from unimod_jax.training.time_breakdown import PARTS, TimeBreakdown


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_second_belongs_to_one_part():
    clock = Clock()
    times = TimeBreakdown(clock)
    clock.now += 3
    times.enter("compile")
    clock.now += 5
    times.enter("steps")
    clock.now += 20
    with times.spend("checkpoint"):
        clock.now += 2
    clock.now += 10
    times.move(4, "input")
    assert times.seconds() == {
        "start": 3,
        "compile": 5,
        "input": 4,
        "checkpoint": 2,
        "held_out": 0,
        "steps": 26,
    }
    assert times.sentence().startswith("40.0 s: start 3.0 s (8%), compile 5.0 s (12%)")


def test_a_part_that_fails_is_counted():
    clock = Clock()
    times = TimeBreakdown(clock)
    try:
        with times.spend("checkpoint"):
            clock.now += 2
            raise OSError
    except OSError:
        clock.now += 1
    assert times.seconds()["checkpoint"] == 2 and times.seconds()["start"] == 1


def test_no_stage_gives_more_than_it_has():
    times = TimeBreakdown(Clock())
    times.move(5, "input")
    assert set(times.seconds().values()) == {0.0}


def test_the_file_has_all_parts_and_their_sum(tmp_path):
    clock = Clock()
    times = TimeBreakdown(clock)
    clock.now += 7
    times.write(tmp_path / "time.json", 12)
    record = json.loads((tmp_path / "time.json").read_text())
    assert tuple(record["seconds"]) == PARTS
    assert record["total"] == 7 and record["steps_taken"] == 12
