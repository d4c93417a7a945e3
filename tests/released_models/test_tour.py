"""The tour of released models: every step, for every family."""

import pytest

from experiments.checkpoint_tour.__main__ import main
from experiments.checkpoint_tour.steps import STEPS


@pytest.mark.parametrize("family", ["show-o", "emu3", "chameleon"])
def test_every_step_of_the_tour_passes(family, capsys):
    status = main(["--families", family])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"{len(STEPS)} of {len(STEPS)} steps passed", printed
    assert status == 0


def test_a_step_that_fails_is_told_and_counted(monkeypatch, capsys):
    def break_down(journey):
        raise ValueError("this cannot be")

    monkeypatch.setattr("experiments.checkpoint_tour.steps.STEPS", (break_down,))
    assert main(["--families", "emu3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("FAIL  ValueError: this cannot be")
    assert lines[-1] == "0 of 1 steps passed"
