"""`python -m pallas_kernels.tune`: measure block sizes here and write the table.

For each class of shapes, a causal problem of the sizes that real models have is timed
with different blocks, pass by pass. `--write` puts the fastest into `block_sizes.json`
under this chip, with a sentence that says when and where.
"""

import argparse
import datetime
import importlib.resources
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pallas_kernels.benchmark.block_search import (
    BlockTimer,
    Seconds,
    Values,
    cut,
    search,
    takes_one_cut,
)
from pallas_kernels.benchmark.contenders import (
    Problem,
    exact_results,
    implementation_function,
    make_problem,
)
from pallas_kernels.benchmark.timing import Budget
from pallas_kernels.benchmark.visibility_cases import Heads, VisibilityCase
from pallas_kernels.device import Device, current_device
from pallas_kernels.routed_attention.block_sizes import (
    TABLE,
    Blocks,
    BlockSizes,
    block_sizes,
)

# What to try of each field, by platform: tiles that tensor cores, matrix units and
# vector units take whole, up to what their memories hold.
VALUES: dict[str, Values] = {
    "gpu": {
        "key": (32, 64, 128, 256),
        "query": (32, 64, 128, 256),
        "warps": (4, 8),
        "stages": (1, 2, 3, 4),
    },
    "tpu": {"key": (128, 256, 512, 1024), "query": (128, 256, 512, 1024)},
    "cpu": {"key": (64, 128, 256, 512), "query": (64, 128, 256, 512)},
}


class _Length(NamedTuple):
    """What stands for a class: rows, queries (the last ones) and keys."""

    num_rows: int
    num_queries: int
    num_keys: int


# Routed or cached few, Show-o's row, and Chameleon's; on a CPU one row of a few heads.
LENGTHS = {
    "few": _Length(8, 128, 4096),
    "short": _Length(5, 1408, 1408),
    "long": _Length(2, 4096, 4096),
}
DTYPES = {"16bit": "bfloat16", "32bit": "float32"}


class Tuned(NamedTuple):
    """The best sizes of a class, and what was measured of each pass.

    The search is complete unless the budget dropped candidates.
    """

    sizes: BlockSizes
    measured: dict[str, Seconds]
    failures: dict[str, dict[Blocks, str]]
    is_complete: bool


def shape_problem(shapes: str, platform: str) -> Problem:
    """The problem that stands for a class of shapes, such as "short.e64.16bit".

    Raises:
      ValueError: there is no such class here.
    """
    parts = shapes.split(".")
    if len(parts) != 3 or parts[0] not in LENGTHS or parts[2] not in DTYPES:
        raise ValueError(
            f"there is no class {shapes!r}; use one of {', '.join(shape_classes())}."
        )
    length = LENGTHS[parts[0]]
    heads = Heads(32, 32, int(parts[1].removeprefix("e")))
    if platform == "cpu":
        length = length._replace(num_rows=1)
        heads = heads._replace(heads=2, kv_heads=2)
    position_BS = np.tile(np.arange(length.num_keys), (length.num_rows, 1))
    end_BT = position_BS[:, -length.num_queries :] + 1
    start, end, position = (
        x.astype(np.int32) for x in (np.zeros_like(end_BT), end_BT, position_BS)
    )
    case = VisibilityCase(shapes, start, end, position, heads)
    return make_problem(case, DTYPES[parts[2]])


def shape_classes() -> list[str]:
    """The classes that are tuned, those of 16 bits first."""
    return [
        f"{length}.e{head_dim}.{width}"
        for width in DTYPES
        for length in LENGTHS
        for head_dim in (64, 128)
    ]


def tune(
    function: Callable[..., jax.Array],
    problem: Problem,
    start: BlockSizes,
    values: Values,
    budget: Budget,
) -> Tuned:
    """Search each pass in turn, the others as they are best so far.

    Raises:
      NotImplementedError: the function does not serve the problem here, or no blocks
        that were tried run.
    """
    attend = cut(function, start, problem.scale)
    qkv = (problem.q_BTHE, problem.k_BSGE, problem.v_BSGE)
    jax.eval_shape(attend, *qkv, *problem.visibility)
    exact, num_dropped = exact_results(problem), len(budget.dropped)
    passes = ("forward",) if takes_one_cut(function) else BlockSizes._fields
    sizes, measured, failures = start, {}, {}
    for which in passes:
        timer = BlockTimer(function, problem, sizes, which, budget, exact=exact)
        best, measured[which] = search(getattr(sizes, which), values, timer.measure)
        failures[which] = timer.failures
        if best is None:
            why = next(iter(timer.failures.values()), "the budget was spent")
            raise NotImplementedError(f"no blocks of pass {which} run: {why}")
        sizes = sizes._replace(**{which: best})
    if len(passes) == 1:
        sizes = BlockSizes(sizes.forward, sizes.forward, sizes.forward)
    return Tuned(sizes, measured, failures, len(budget.dropped) == num_dropped)


def format_table(table: Mapping[str, Any]) -> str:
    """Format the table as it is kept: one class per line."""
    implementations = []
    for implementation, chips in table.items():
        chips_text = []
        for chip, classes in chips.items():
            entries = [
                f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in classes.items()
            ]
            chips_text.append(_named_block(chip, entries, "  "))
        implementations.append(_named_block(implementation, chips_text, " "))
    return "{\n" + ",\n".join(implementations) + "\n}\n"


def _named_block(name: str, parts: Sequence[str], indent: str) -> str:
    inside = ",\n".join(parts)
    return f"{indent}{json.dumps(name)}: {{\n{inside}\n{indent}}}"


def write_entry(
    path: Path,
    implementation: str,
    device: Device,
    shapes: str,
    entry: Mapping[str, Any],
) -> None:
    """Put the entry of a class under this chip; leave every other one as it is."""
    table = json.loads(path.read_text(encoding="utf-8"))
    chips = table.setdefault(implementation, {})
    chips.setdefault(device.kind, {})[shapes] = entry
    path.write_text(format_table(table), encoding="utf-8")


def table_entry(
    tuned: Tuned, fields: Sequence[str], problem: Problem, device: Device
) -> dict[str, Any]:
    """The sizes, in the fields that were varied, and where they come from."""
    rows, num_queries, heads, head_dim = problem.q_BTHE.shape
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    source = (
        f"measured {today} on {device.kind}, jax {jax.__version__}: causal, {rows} "
        f"rows, T {num_queries}, S {problem.k_BSGE.shape[1]}, {heads} heads of "
        f"{head_dim}, {problem.q_BTHE.dtype}"
        + ("" if tuned.is_complete else "; the budget cut the search short")
    )
    ordered = [field for field in Blocks._fields if field in fields]
    return {
        which: {field: getattr(blocks, field) for field in ordered}
        for which, blocks in tuned.sizes._asdict().items()
    } | {"source": source}


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune what the command line names; see --help."""
    parser = argparse.ArgumentParser(
        prog="python -m pallas_kernels.tune", description=__doc__
    )
    parser.add_argument("--implementation", required=True, help="such as mosaic_tpu")
    parser.add_argument(
        "--shape", action="append", help="a class such as short.e64.16bit; repeatable"
    )
    parser.add_argument("--write", action="store_true", help=f"into {TABLE}")
    parser.add_argument(
        "--budget", type=float, default=540.0, help="seconds of wall clock in total"
    )
    options = parser.parse_args(arguments)
    try:
        _tune_all(options)
    except (NotImplementedError, ValueError) as error:
        raise SystemExit(str(error)) from None


def _tune_all(options: argparse.Namespace) -> None:
    device, name = current_device(), options.implementation
    function = implementation_function(name)
    values, budget = VALUES[device.platform], Budget(options.budget)
    refusals = {}
    shapes_to_tune = options.shape or shape_classes()
    for shapes in shapes_to_tune:
        problem = shape_problem(shapes, device.platform)
        try:
            start = starting_sizes(name, device, shapes, values)
            tuned = tune(function, problem, start, values, budget)
        except NotImplementedError as refusal:
            refusals[shapes] = str(refusal)
            continue
        print(f"{name}, {shapes}\n{tuned_table(tuned)}", flush=True)
        if options.write:
            entry = table_entry(tuned, tuple(values), problem, device)
            write_entry(table_path(), name, device, shapes, entry)
    if len(refusals) == len(shapes_to_tune):
        reason = next(iter(refusals.values()))
        raise NotImplementedError(
            f"There is nothing to measure for {name} on {device}: {reason}"
        )
    for shapes, refusal in refusals.items():
        print(f"{name}, {shapes}: {refusal}")
    for dropped in budget.dropped:
        print(f"dropped for want of time: {dropped}")


def starting_sizes(
    name: str, device: Device, shapes: str, values: Values
) -> BlockSizes:
    """The table's sizes, or the middle of what is tried where it has none."""
    try:
        return block_sizes(name, device, shapes)
    except KeyError:
        middle = {field: tried[len(tried) // 2] for field, tried in values.items()}
        return BlockSizes(*[Blocks(**middle)] * len(BlockSizes._fields))


def tuned_table(tuned: Tuned) -> str:
    """Every candidate of every pass, by its latest time, and the failures.

    The choice compares times of one turn only, so it need not be the first line.
    """
    lines = []
    for which, seconds in tuned.measured.items():
        best = getattr(tuned.sizes, which)
        for blocks, time in sorted(seconds.items(), key=lambda item: item[1]):
            mark = "  <- chosen" if blocks == best else ""
            lines.append(f"  {which:<15}{_words(blocks)}{1e3 * time:>10.3f} ms{mark}")
        lines += [
            f"  {which:<15}{_words(blocks)}  {why}"
            for blocks, why in tuned.failures[which].items()
        ]
    return "\n".join(lines)


def _words(blocks: Blocks) -> str:
    return "".join(f"{name} {size:<5}" for name, size in blocks._asdict().items())


def table_path() -> Path:
    """Where the table is kept."""
    folder = importlib.resources.files("pallas_kernels.routed_attention")
    return Path(str(folder / TABLE))


if __name__ == "__main__":
    main()
