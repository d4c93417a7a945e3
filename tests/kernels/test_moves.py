"""Every figure of what moving tokens costs has its floor."""

from pallas_kernels.benchmark.moves import (
    MovesCase,
    moves_figures,
    moves_report,
)
from pallas_kernels.benchmark.timing import Budget


def test_each_operation_is_measured_beside_its_floor_and_a_network():
    case = MovesCase("tiny", 2, 16, 4, 8)
    budget = Budget(100.0)
    records = moves_report([case], dtype="float32", repeats=2, budget=budget)
    assert len(records) == 5 and all(r["seconds"] > 0 for r in records)
    figures = moves_figures(records)
    assert set(figures) == {
        f"moves.tiny.{operation}.{ratio}"
        for operation in ("gather_norm", "put_back")
        for ratio in ("over_floor", "saving_over_network")
    }


def test_a_spent_budget_drops_cases_by_name():
    budget = Budget(0.0)
    case = MovesCase("tiny", 2, 16, 4, 8)
    assert moves_report([case], dtype="float32", repeats=2, budget=budget) == []
    assert budget.report()["dropped"] == ["tiny"]


def test_figures_are_the_ratios_worked_out_by_hand():
    seconds = {"put_back": 3.0, "put_back.floor": 2.0, "network": 10.0}
    records = [
        {"name": "case", "program": program, "seconds": value}
        for program, value in seconds.items()
    ]
    assert moves_figures(records) == {
        "moves.case.put_back.over_floor": 1.5,
        "moves.case.put_back.saving_over_network": 0.1,
    }
