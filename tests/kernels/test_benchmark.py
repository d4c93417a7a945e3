"""Contenders are checked, take turns, and never end a run or vanish from it."""

import json
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.benchmark import __main__ as command
from pallas_kernels.benchmark.attention import (
    Plan,
    attention_figures,
    attention_report,
    cases_named,
    default_plan,
)
from pallas_kernels.benchmark.compiled_memory import memory_figures, memory_report
from pallas_kernels.benchmark.contenders import (
    exact_results,
    implementation_function,
    jax_xla,
    largest_errors,
    make_problem,
    ours,
)
from pallas_kernels.benchmark.flex_attention import flex_attention
from pallas_kernels.benchmark.timing import Budget, Run, seconds_in_turns, take_turns
from pallas_kernels.benchmark.visibility_cases import (
    Heads,
    VisibilityCase,
    causal_case,
)
from pallas_kernels.routed_attention.reference import reference
from tests.kernels.attention_cases import Case, Visibility, oracle, random_visibility

TINY = causal_case("tiny", 16, Heads(2, 1, 8))


def tiny_plan(*cases, budget_seconds=100.0):
    return Plan(cases or (TINY,), "float32", 2, 0.0, budget_seconds)


def twice(*arguments, **options):
    return 2 * reference(*arguments, **options)


def refuses(*arguments, **options):
    raise NotImplementedError("not today.")


def breaks(*arguments, **options):
    raise RuntimeError("out of registers\nand more")


@pytest.fixture(scope="module")
def records():
    """One run of everything that can happen to a contender."""
    contenders = {
        "mine": ours("xla_chunked"),
        "theirs": jax_xla,
        "twice": ours(twice),
        "refuses": ours(refuses),
        "breaks": ours(breaks),
    }
    records, budget = attention_report(tiny_plan(), contenders)
    assert not budget["dropped"]
    return {(record["contender"], record["pass"]): record for record in records}


class FakeTime:
    """A clock that only runs as long as the work that is started."""

    def __init__(self):
        self.now = 0.0
        self.started = []

    def clock(self):
        return self.now

    def run(self, name, *seconds):
        remaining = list(seconds)

        def start():
            self.started.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return Run(start, lambda result: None)

    def take_turns(self, runs, budget_seconds=1e9, sample_seconds=0.0, repeats=3):
        return take_turns(
            runs,
            repeats=repeats,
            sample_seconds=sample_seconds,
            budget=Budget(budget_seconds, self.clock),
            clock=self.clock,
        )


def test_runs_take_turns_and_warm_ups_do_not_count():
    time = FakeTime()
    runs = {"a": time.run("a", 100.0, 1.0), "b": time.run("b", 50.0, 2.0)}
    samples = time.take_turns(runs)
    assert time.started == ["a", "a", "b", "b", *"ababab"]
    assert samples["a"].seconds == [1.0] * 3 and samples["b"].seconds == [2.0] * 3


def test_short_runs_are_called_often_enough_for_the_clock():
    time = FakeTime()
    samples = time.take_turns({"a": time.run("a", 0.25)}, sample_seconds=1.0)
    assert samples["a"].calls == 4
    assert samples["a"].seconds == [0.25] * 3


def test_a_spent_budget_drops_rounds_but_never_the_first():
    time = FakeTime()
    runs = {"a": time.run("a", 1.0), "b": time.run("b", 1.0)}
    samples = time.take_turns(runs, budget_seconds=0.5, repeats=5)
    assert len(samples["a"].seconds) == len(samples["b"].seconds) == 1


def test_a_run_that_raises_leaves_the_others_alone():
    time = FakeTime()

    def start():
        raise MemoryError("full")

    samples = time.take_turns(
        {"a": Run(start, lambda result: None), "b": time.run("b", 1.0)}
    )
    assert isinstance(samples["a"].failure, MemoryError)
    assert len(samples["b"].seconds) == 3


def test_what_prepares_a_sample_comes_before_it_and_does_not_count():
    time = FakeTime()
    run = time.run("a", 1.0)

    def prepare():
        time.started.append("prepare")
        time.now += 50.0

    samples = time.take_turns({"a": run._replace(prepare=prepare)}, repeats=2)
    assert time.started == ["prepare", "a"] * 4  # two of them warm up
    assert samples["a"].seconds == [1.0, 1.0]


def test_a_run_that_must_not_fail_ends_it_all():
    def start():
        raise MemoryError("full")

    runs = {"a": Run(lambda: None, lambda _: None), "b": Run(start, lambda _: None)}
    with pytest.raises(MemoryError, match="full"):
        seconds_in_turns(runs, repeats=2, budget=Budget(1e9))
    del runs["b"]
    taken = seconds_in_turns(runs, repeats=9, budget=Budget(0.0), fewest=3)
    assert list(taken) == ["a"] and len(taken["a"]) == 3


def test_exact_results_are_the_oracle_of_the_tests():
    visibility = Visibility(*random_visibility(0, 2, 12, 14))
    visibility.window_end[0, :3] = visibility.window_start[0, :3]
    case = VisibilityCase("random", *visibility, Heads(4, 2, 8))
    problem = make_problem(case, "float32")
    assert not np.any(problem.sees_BT[0, :3]) and not np.any(problem.dout_BTHE[0, :3])
    arrays = (problem.q_BTHE, problem.k_BSGE, problem.v_BSGE, problem.dout_BTHE)
    wanted = oracle(Case(*map(np.asarray, arrays), visibility, problem.scale))
    for actual, expected in zip(exact_results(problem), wanted, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0.0, atol=1e-5)


def test_rates_count_visible_pairs_only(records):
    for which, flops in (("forward", 4.0), ("forward_backward", 14.0)):
        record = records["mine", which]
        # 136 visible pairs, two heads of dimension 8.
        wanted = flops * 8 * 136 * 2 / (record["milliseconds"] / 1e3) / 1e12
        assert record["tflops_per_second"] == pytest.approx(wanted)
        assert record["repeats"] == 2


def test_every_result_is_compared_with_the_exact_one(records):
    assert set(records["mine", "forward"]["errors"]) == {"out"}
    assert set(records["mine", "forward_backward"]["errors"]) == {
        *("out", "dq", "dk", "dv")
    }
    for name, is_correct in (("mine", True), ("theirs", True), ("twice", False)):
        for which in ("forward", "forward_backward"):
            assert records[name, which]["is_correct"] == is_correct


def test_what_is_refused_or_fails_is_recorded_and_ends_nothing(records):
    refused, broken = records["refuses", "forward"], records["breaks", "forward"]
    assert (refused["status"], refused["reason"]) == ("refused", "not today.")
    assert broken["status"] == "failed"
    assert broken["reason"] == "RuntimeError: out of registers and more"


def test_figures_are_our_time_over_theirs_and_leave_out_what_is_wrong(records):
    figures = attention_figures(list(records.values()), ("mine", "twice", "breaks"))
    assert set(figures) == {
        "attention.tiny.forward.mine_over_theirs",
        "attention.tiny.forward_backward.mine_over_theirs",
    }
    mine, theirs = (records[name, "forward"] for name in ("mine", "theirs"))
    ratio = figures["attention.tiny.forward.mine_over_theirs"]
    assert ratio == mine["milliseconds"] / theirs["milliseconds"]


def test_a_spent_budget_says_what_it_dropped():
    plan = tiny_plan(budget_seconds=0.0)
    records, budget = attention_report(plan, {"xla": jax_xla})
    assert not records
    assert budget["dropped"] == ["tiny: the whole case"]


def test_queries_that_see_nothing_do_not_count_against_a_library():
    sees_BT = jnp.asarray([[False, True]])
    exact = jnp.asarray([[[[0.0]], [[4.0]]]])
    blind_but_right = jnp.asarray([[[[jnp.nan]], [[4.0]]]])
    wrong = jnp.asarray([[[[0.0]], [[3.0]]]])
    assert largest_errors((blind_but_right,), (exact,), sees_BT) == {"out": 0.0}
    assert largest_errors((wrong,), (exact,), sees_BT) == {"out": 0.25}


def test_flex_attention_says_why_it_does_not_compete(monkeypatch):
    problem: Any = None  # It says so before it looks at one.
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NotImplementedError, match="not installed"):
        flex_attention(problem)
    torch = types.ModuleType("torch")
    vars(torch)["__version__"] = "9.9"
    vars(torch)["cuda"] = types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(NotImplementedError, match=r"9\.9 sees no CUDA device"):
        flex_attention(problem)


def test_an_implementation_is_found_by_its_name_or_refused_in_a_sentence():
    assert implementation_function("reference") is reference
    for name in ("no_such_kernel", "block_bounds"):
        with pytest.raises(NotImplementedError, match="xla_chunked"):
            implementation_function(name)


def test_chunks_need_linear_memory_where_a_stored_mask_needs_quadratic():
    records = memory_report(
        {"xla_chunked": "xla_chunked", "breaks": breaks},
        Heads(1, 1, 8),
        "float32",
        (512, 1024),
    )
    figures = memory_figures(records)
    assert figures["memory.xla.growth_512_to_1024"] > 3.5
    assert figures["memory.xla_chunked.growth_512_to_1024"] < 2.1
    assert figures["memory.causal_1024.xla_chunked_over_xla"] < 1.0
    assert {r["status"] for r in records if r["contender"] == "breaks"} == {"failed"}


def test_small_kept_sets_get_more_rows():
    long, short = cases_named(["emu3_9216", "show_o_mmu_1408_kept_20"], 8192)
    assert (long.num_rows, short.num_rows) == (1, 29)
    (any_length,) = cases_named(["causal_48"], 0)
    assert (any_length.num_rows, any_length.num_queries) == (1, 48)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_plan_names_cases_that_exist(platform):
    plan, quick = (default_plan(platform, quick=quick) for quick in (False, True))
    assert len(plan.cases) > len(quick.cases) == 2
    assert plan.budget_seconds <= 8 * 60
    assert all(case.heads.heads <= 4 for case in plan.cases) == (platform == "cpu")


def test_the_command_writes_results_figures_and_where_they_come_from(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    monkeypatch.setattr(command, "LENGTHS", (32, 64))
    path = tmp_path / "results.json"
    arguments = ["--suite", "attention", "--quick", "--cases", "causal_32"]
    command.main([*arguments, "--json", str(path)])
    results = json.loads(path.read_text(encoding="utf-8"))
    assert results["platform"] == "cpu" and results["jax"] == jax.__version__
    assert results["command"].startswith("python -m pallas_kernels.benchmark --suite")
    assert {"date", "device_kind", "git_commit", "config"} <= set(results)
    ratio = results["figures"]["attention.causal_32.forward.xla_chunked_over_xla"]
    assert 0 < ratio < jnp.inf
    contenders = {record["contender"] for record in results["results"]}
    assert {"cudnn", "flex_attention", "xla", "xla_chunked"} <= contenders
    assert "causal_32" in capsys.readouterr().out


def test_a_case_that_does_not_exist_is_one_sentence(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    with pytest.raises(SystemExit, match="no case 'nothing'"):
        command.main(["--suite", "attention", "--cases", "nothing"])
