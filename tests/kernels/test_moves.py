"""The measured gathers are those of a routed layer, and every figure has its floor."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.benchmark.moves import (
    MovesCase,
    move_rows,
    moves_figures,
    moves_report,
)
from pallas_kernels.benchmark.timing import Budget
from unimod_jax.mod import routed_layer


def test_the_measured_gather_is_the_one_of_a_routed_layer():
    x = jnp.arange(24.0).reshape(2, 4, 3)
    index = jnp.array([[2, 0], [3, 4]], jnp.int32)
    inverse = jnp.array([[1, 2, 0, 2], [2, 2, 2, 0]], jnp.int32)
    cotangent = jnp.arange(12.0).reshape(2, 2, 3) + 1
    measured, layer = (
        jax.vjp(lambda x, move=move: move(x, index, inverse), x)
        for move in (move_rows, routed_layer.move_rows)
    )
    np.testing.assert_array_equal(measured[0], layer[0])
    np.testing.assert_array_equal(measured[1](cotangent)[0], layer[1](cotangent)[0])


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
