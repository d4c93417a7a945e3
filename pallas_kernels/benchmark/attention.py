"""The attention suite: each case, each pass, every contender, checked and timed.

FLOPs count visible pairs only: 4 E per visible pair and query head forward (two
products), 3.5 times that with the backward pass (five more products, FlashAttention-2).
So a library that computes hidden pairs shows a low rate, not a high one.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pallas_kernels.benchmark.contenders import (
    FORWARD,
    PASSES,
    TOLERANCE,
    Contender,
    Prepared,
    Problem,
    exact_results,
    jax_cudnn,
    jax_xla,
    largest_errors,
    make_problem,
    ours,
    tokamax,
)
from pallas_kernels.benchmark.flex_attention import flex_attention
from pallas_kernels.benchmark.timing import Budget, Run, Samples, take_turns
from pallas_kernels.benchmark.visibility_cases import (
    SEVEN_BILLION_HEADS,
    Heads,
    VisibilityCase,
    causal_case,
    visibility_cases,
)

OURS = ("mosaic_gpu", "triton", "mosaic_tpu", "xla_chunked")
LIBRARIES: dict[str, Contender] = {
    "cudnn": jax_cudnn,
    "xla": jax_xla,
    "flex_attention": flex_attention,
    "tokamax": tokamax,
}
FLOP_CONVENTION = (
    "4 * E per visible pair and query head forward, 3.5 times that for forward and "
    "backward; hidden pairs count nothing"
)

BACKWARD_FACTOR = 3.5


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to run: cases in order of importance, and how long to look at each.

    Attributes:
      cases: the first ones get the budget.
      dtype: of q, k and v.
      repeats: samples of each contender and pass; the median counts.
      sample_seconds: least length of a sample; 0 for single calls.
      budget_seconds: of wall clock; what it drops is listed in the results.
    """

    cases: tuple[VisibilityCase, ...]
    dtype: str
    repeats: int
    sample_seconds: float
    budget_seconds: float

    def with_budget(self, seconds: float) -> "Plan":
        """The same plan in another time."""
        return dataclasses.replace(self, budget_seconds=seconds)


# Tokens per case on an accelerator: short kept sets get more rows, so that a call takes
# longer than starting it from Python. Show-o's five rows per GPU come out of it too.
_TOKENS = 8192
_ACCELERATOR_CASES = (
    "causal_4096",
    "show_o_t2i_1408",
    "show_o_mmu_1408_kept_20",
    "emu3_4300_kept_20",
    "transfusion_16_pairs_256",
    "show_o_mmu_1408",
    "emu3_4300",
    "chameleon_packed_4096",
    "transfusion_long_4096_modality_major",
    "show_o_t2i_1408_kept_80",
)
_CPU_CASES = (
    "causal_1024",
    "causal_2048",
    "show_o_t2i_1408",
    "show_o_mmu_1408_kept_20",
    "emu3_4300_kept_20",
    "chameleon_packed_4096",
)
_CPU_QUICK_CASES = ("causal_256", "causal_512")
_CPU_HEADS = Heads(4, 2, 64)


def default_plan(platform: str, *, quick: bool, names: Sequence[str] = ()) -> Plan:
    """The published sizes on an accelerator, a few heads of one row on a CPU.

    Args:
      platform: "cpu", "gpu" or "tpu".
      quick: two cases and few repeats.
      names: of cases to run instead of the default ones.

    Raises:
      ValueError: there is no case of a name.
    """
    if platform == "cpu":
        names = names or (_CPU_QUICK_CASES if quick else _CPU_CASES)
        cases = cases_named(names, 0)
        cases = [case.with_heads(_CPU_HEADS) for case in cases]
        repeats, budget_seconds = (3, 60.0) if quick else (7, 300.0)
        return Plan(tuple(cases), "float32", repeats, 0.0, budget_seconds)
    names = names or _ACCELERATOR_CASES[: 2 if quick else None]
    cases = cases_named(names, _TOKENS)
    return Plan(tuple(cases), "bfloat16", 5 if quick else 15, 0.02, 400.0)


def cases_named(names: Sequence[str], num_tokens: int) -> list[VisibilityCase]:
    """The cases of some names, in the order of the names.

    Args:
      names: of `visibility_cases`, or "causal_" and a number of tokens.
      num_tokens: about how many queries a case has in all its rows; at least one row.

    Raises:
      ValueError: there is no case of a name.
    """
    known = {case.name: case for case in visibility_cases(1)}
    found = []
    for name in names:
        length = name.removeprefix("causal_")
        if length.isdigit() and length != name:
            rows = max(1, num_tokens // int(length))
            heads = SEVEN_BILLION_HEADS
            found.append(causal_case(name, int(length), heads, rows))
        elif name in known:
            rows = max(1, num_tokens // known[name].num_queries)
            found += [case for case in visibility_cases(rows) if case.name == name]
        else:
            raise ValueError(
                f"there is no case {name!r}; use causal_ and a number of tokens, or "
                f"some of {', '.join(known)}."
            )
    return found


def contenders(
    implementations: Mapping[str, str | Callable] | Sequence[str] = OURS,
) -> dict[str, Contender]:
    """Our implementations, by name or as named functions, and every library."""
    if not isinstance(implementations, Mapping):
        implementations = {name: name for name in implementations}
    return {name: ours(x) for name, x in implementations.items()} | LIBRARIES


def attention_report(
    plan: Plan,
    competing: Mapping[str, Contender],
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the plan.

    Nothing that a contender raises ends the run: it is recorded with its sentence.

    Returns:
      One flat record per case, pass and contender, and what the budget dropped.
    """
    budget = Budget(plan.budget_seconds)
    records: list[dict[str, Any]] = []
    for case in plan.cases:
        if budget.is_spent:
            budget.dropped.append(f"{case.name}: the whole case")
            continue
        say(f"{case.name}: {case.num_rows} rows of {case.num_queries}, {plan.dtype}")
        new_records = _case_records(case, plan, competing, budget)
        for record in new_records:
            # What a contender refuses forward it refuses backward, in the same words.
            refused = record["status"] == "refused"
            if record["pass"] == FORWARD or not refused:
                say("  " + _line(record))
        records += new_records
    return records, budget.report()


def attention_figures(
    records: Sequence[Mapping[str, Any]], our_names: Sequence[str]
) -> dict[str, float]:
    """Our time over theirs, of correct results only.

    A name reads `attention.causal_4096.forward.mosaic_gpu_over_cudnn`.
    """
    time = {
        (record["case"], record["pass"], record["contender"]): record["milliseconds"]
        for record in records
        if record["status"] == "measured" and record["is_correct"]
    }
    return {
        f"attention.{case}.{which}.{mine}_over_{theirs}": time[case, which, mine] / its
        for (case, which, theirs), its in time.items()
        if theirs not in our_names
        for mine in our_names
        if (case, which, mine) in time
    }


def _case_records(
    case: VisibilityCase,
    plan: Plan,
    competing: Mapping[str, Contender],
    budget: Budget,
) -> list[dict[str, Any]]:
    records = {
        (which, name): _record(case, plan.dtype, which, name)
        for which in PASSES
        for name in competing
    }
    try:
        problem = make_problem(case, plan.dtype)
        exact = jax.block_until_ready(exact_results(problem))
    except Exception as failure:
        reason = f"no exact results to compare with: {_failed(failure)['reason']}"
        for record in records.values():
            record |= {"status": "failed", "reason": reason}
        return list(records.values())
    runs: dict[str, dict[str, Run]] = {which: {} for which in PASSES}
    for name, contender in competing.items():
        mine = {which: records[which, name] for which in PASSES}
        if budget.is_spent:
            budget.dropped.append(f"{case.name}: {name}")
            for record in mine.values():
                record |= {"status": "dropped", "reason": "the budget was spent"}
            continue
        for which, run in _checked(contender, problem, exact, mine).items():
            runs[which][name] = run
    num_pairs = case.num_visible_pairs()
    for which in PASSES:
        all_samples = take_turns(
            runs[which],
            repeats=plan.repeats,
            sample_seconds=plan.sample_seconds,
            budget=budget,
        )
        for name, samples in all_samples.items():
            if len(samples.seconds) < plan.repeats and samples.failure is None:
                done = f"{len(samples.seconds)} of {plan.repeats}"
                budget.dropped.append(f"{case.name}: {which}: {name}: {done} repeats")
            _add_times(records[which, name], samples, num_pairs)
    return list(records.values())


def _record(case: VisibilityCase, dtype: str, which: str, name: str) -> dict[str, Any]:
    return {
        "case": case.name,
        "pass": which,
        "contender": name,
        "num_rows": case.num_rows,
        "num_queries": case.num_queries,
        "num_keys": case.num_keys,
        **case.heads._asdict(),
        "dtype": dtype,
        "order": case.order,
        "is_plain_causal": case.is_plain_causal,
    }


def _checked(
    contender: Contender,
    problem: Problem,
    exact: tuple[jax.Array, ...],
    records: Mapping[str, dict[str, Any]],
) -> dict[str, Run]:
    """Run each pass once, compare, and return those that ran."""
    try:
        prepared: Prepared | None = contender(problem)
    except Exception as failure:
        for record in records.values():
            record |= _failed(failure)
        return {}
    runs = {}
    tolerance = TOLERANCE[str(problem.q_BTHE.dtype)]
    for which, run in prepared.passes.items():
        try:
            result = run.start()
            run.wait(result)
            errors = largest_errors(prepared.read(result), exact, problem.sees_BT)
        except Exception as failure:
            records[which].update(_failed(failure))
            continue
        # Not a number compares as False: not correct.
        is_correct = all(error <= tolerance for error in errors.values())
        records[which].update({"errors": errors, "is_correct": is_correct})
        runs[which] = run
    return runs


def _failed(failure: Exception) -> dict[str, Any]:
    if isinstance(failure, NotImplementedError):
        return {"status": "refused", "reason": str(failure)}
    text = " ".join(str(failure).split())[:300]
    return {"status": "failed", "reason": f"{type(failure).__name__}: {text}"}


def _add_times(record: dict[str, Any], samples: Samples, num_pairs: int) -> None:
    record["visible_pairs"] = num_pairs
    if samples.failure is not None:
        record.update(_failed(samples.failure))
        return
    factor = 1.0 if record["pass"] == FORWARD else BACKWARD_FACTOR
    flops = 4 * factor * record["head_dim"] * num_pairs * record["heads"]
    quarter, median, three_quarters = np.quantile(samples.seconds, (0.25, 0.5, 0.75))
    record |= {
        "status": "measured",
        "milliseconds": 1e3 * float(median),
        "milliseconds_quartiles": [1e3 * float(quarter), 1e3 * float(three_quarters)],
        "tflops_per_second": flops / float(median) / 1e12,
        "repeats": len(samples.seconds),
        "calls_per_repeat": samples.calls,
    }


def _line(record: Mapping[str, Any]) -> str:
    name = f"{record['pass']:<17}{record['contender']:<15}"
    if record["status"] != "measured":
        return f"{name}{record['status']}: {record['reason']}"
    error = max(record["errors"].values())
    return (
        f"{name}{record['milliseconds']:>10.3f} ms "
        f"{record['tflops_per_second']:>9.3f} TFLOP/s  error {error:.1e}"
        + ("" if record["is_correct"] else "  NOT CORRECT")
    )
