"""`python -m pallas_kernels.benchmark`: block counts, and attention against libraries.

A budget of wall clock bounds a run; what it drops is listed, never silently missing.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from pallas_kernels.benchmark.attention import (
    FLOP_CONVENTION,
    OURS,
    attention_figures,
    attention_report,
    contenders,
    default_plan,
)
from pallas_kernels.benchmark.compiled_memory import (
    LENGTHS,
    memory_figures,
    memory_report,
)
from pallas_kernels.benchmark.contenders import TOLERANCE
from pallas_kernels.benchmark.moves import CASES, moves_figures, moves_report
from pallas_kernels.benchmark.provenance import provenance
from pallas_kernels.benchmark.schedule import (
    BLOCKS,
    schedule_figures,
    schedule_report,
    schedule_table,
)
from pallas_kernels.benchmark.timing import Budget
from pallas_kernels.benchmark.visibility_cases import Heads, visibility_cases
from pallas_kernels.device import current_device

_MODULE = "pallas_kernels.benchmark"
_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
_MEMORY_HEADS = Heads(2, 2, 64)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for; see --help."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    # PyTorch takes turns on the same GPU and needs memory of its own.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    if options.device:
        jax.config.update("jax_platforms", _PLATFORMS[options.device])
    try:
        suite = {None: _schedule, "attention": _attention, "moves": _moves}
        results = suite[options.suite](options)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    results = provenance(_MODULE, arguments) | results
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--schedule", action="store_true", help="count the blocks that kernels visit"
    )
    what.add_argument(
        "--suite",
        choices=["attention", "moves"],
        help="time and check attention; time a routed layer's gathers",
    )
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--device", choices=_PLATFORMS, help="default: JAX's own")
    parser.add_argument("--quick", action="store_true", help="few cases and repeats")
    parser.add_argument(
        "--cases", default="", help="comma-separated names from --schedule"
    )
    parser.add_argument(
        "--implementations", default=",".join(OURS), help="comma-separated names"
    )
    parser.add_argument(
        "--budget", type=float, help="seconds of wall clock, instead of the default"
    )
    return parser


def _schedule(options: argparse.Namespace) -> dict[str, Any]:
    del options
    cases = visibility_cases()
    results = schedule_report(cases)
    print(schedule_table(results))
    return {
        "config": {"blocks": list(BLOCKS), "num_rows": cases[0].num_rows},
        "results": results,
        "figures": schedule_figures(results),
    }


def _attention(options: argparse.Namespace) -> dict[str, Any]:
    platform = current_device().platform
    names = [name for name in options.cases.split(",") if name]
    implementations = [x for x in options.implementations.split(",") if x]
    plan = default_plan(platform, quick=options.quick, names=names)
    if options.budget is not None:
        plan = plan.with_budget(options.budget)
    print(f"{current_device()}, {plan.dtype}; FLOPs: {FLOP_CONVENTION}", flush=True)
    records, budget = attention_report(
        plan, contenders(implementations), lambda line: print(line, flush=True)
    )
    memory = []
    if platform == "cpu":
        lengths = LENGTHS[:2] if options.quick else LENGTHS
        memory = memory_report(implementations, _MEMORY_HEADS, plan.dtype, lengths)
        _print_memory(memory)
    for dropped in budget["dropped"]:
        print(f"dropped for want of time: {dropped}")
    return {
        "config": {
            "flop_convention": FLOP_CONVENTION,
            "tolerance": TOLERANCE[plan.dtype],
            "repeats": plan.repeats,
            "budget": budget,
        },
        "results": records,
        "memory": memory,
        "figures": attention_figures(records, implementations) | memory_figures(memory),
    }


def _moves(options: argparse.Namespace) -> dict[str, Any]:
    is_cpu = current_device().platform == "cpu"
    dtype = "float32" if is_cpu else "bfloat16"
    repeats = 3 if options.quick else 9
    budget = Budget(options.budget or 300.0)
    cases = CASES[:1] if options.quick else CASES
    records = moves_report(cases, dtype=dtype, repeats=repeats, budget=budget)
    figures = moves_figures(records)
    for name, ratio in figures.items():
        print(f"{name:<55}{ratio:>8.3f}")
    return {
        "config": {"dtype": dtype, "repeats": repeats, "budget": budget.report()},
        "results": records,
        "figures": figures,
    }


def _print_memory(memory: Sequence[dict[str, Any]]) -> None:
    print("compiled temporary memory, causal, forward and backward")
    for record in memory:
        name = f"  {record['num_tokens']:>6}  {record['contender']:<15}"
        if record["status"] == "measured":
            print(f"{name}{record['temporary_bytes'] / 2**20:>10.2f} MiB")
        elif record["status"] == "failed":
            print(f"{name}failed: {record['reason']}")


if __name__ == "__main__":
    main()
