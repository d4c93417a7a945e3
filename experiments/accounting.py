"""Parameters, FLOPs and cache of a published model: `python -m experiments.accounting`.

Counts without running or allocating anything, so the 34B model takes a second too.
FLOPs come under four conventions (see unimod_jax/models/accounting.py), each beside the
dense twin's: the papers' figures count linear maps only. `--recipe` prints how the
model is trained instead, and where every number is from.
"""

import argparse
import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.command_line import one_sentence_errors
from unimod_jax.layout import RowLayout
from unimod_jax.mod import plan_from
from unimod_jax.models import ModelSpec, cache_bytes
from unimod_jax.models.accounting import (
    CONVENTIONS,
    TRAINING_OVER_FORWARD,
    forward_flops,
    parameters,
)
from unimod_jax.presets import PRESETS, VARIANTS, Preset, model_spec, preset


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.accounting",
        description=__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("preset", metavar="PRESET", nargs="?", help="see --list")
    parser.add_argument(
        "--variant",
        metavar="NAME",
        default="dense",
        help="what is untied and routed, see --list (default: dense)",
    )
    parser.add_argument(
        "--plan",
        metavar="FILE|MAKER",
        help="other keep ratios: a file, or the short form of a function that makes "
        "them, such as last_half:0.4, for the tasks that the preset routes",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--recipe",
        action="store_true",
        help="print how it is trained instead",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the presets and the variants"
    )
    options = parser.parse_args(arguments)
    with one_sentence_errors():
        if options.list:
            print("\n".join(_names()))
            return
        if options.preset is None:
            raise ValueError("no preset is named; give one, or --list to see them.")
        of = preset(options.preset)
        if options.recipe and not options.json:
            print("\n".join(_recipe(of)))
            return
        found = account(of, options.variant, options.plan)
        print(json.dumps(found, indent=2) if options.json else "\n".join(_table(found)))


def account(of: Preset, variant: str, plan: str | None = None) -> dict[str, Any]:
    """What a preset costs in one of the papers' variants, beside its dense twin.

    Args:
      of: the preset.
      variant: a name of `VARIANTS`.
      plan: in place of the variant's, as `mod.plan_from` reads it.

    Returns:
      What `--json` prints: counts are per row, except `parameters`. `kv_cache_bytes`
      is 0 for tasks that are not generated token by token. `batch_rows`, `recipe`
      and `sources` are the preset's, whatever the variant.

    Raises:
      ValueError: for a variant that is unknown or does not apply, or a plan that cannot
        be read or is of another depth.
    """
    spec = _planned(model_spec(of, variant), of, plan)
    twin = spec.dense_twin()
    layouts, twin_layouts = of.layouts(spec), of.layouts(twin)
    forward = _forward(spec, layouts, of)
    dense = _forward(twin, twin_layouts, of)
    count = parameters(spec, layouts)
    return {
        "preset": of.name,
        "title": of.title,
        "variant": variant,
        "plan": {p.task: list(p.keep_ratios) for p in spec.routing.plan},
        "parameters": {
            "total": count.total,
            "activated": count.activated,
            "embedding": count.embedding,
            "towers": count.towers,
        },
        "tokens_per_row": {task: one.row_length for task, one in layouts.items()},
        "attention_order": _orders(layouts),
        "forward_flops": forward,
        "training_flops": {
            task: {name: TRAINING_OVER_FORWARD * n for name, n in flops.items()}
            for task, flops in forward.items()
        },
        "flops_change_vs_dense": _changes(forward, dense, of.mean_tasks),
        "mean_over": list(of.mean_tasks),
        "kv_cache_bytes": {
            task: {
                "bytes": _cached(spec, layouts[task]),
                "dense_bytes": _cached(twin, twin_layouts[task]),
            }
            for task in layouts
        },
        "batch_rows": of.batch_rows,
        "recipe": dataclasses.asdict(of.recipe),
        "sources": dict(of.source_of),
    }


def _orders(layouts: Mapping[str, RowLayout]) -> dict[str, dict[str, Any]]:
    """Task -> the order in which attention reads its rows, and the counts behind it."""
    orders = {task: layout.attention_order for task, layout in layouts.items()}
    return {
        task: {"order": order.name} | dataclasses.asdict(order)
        for task, order in orders.items()
    }


def _planned(spec: ModelSpec, of: Preset, plan: str | None) -> ModelSpec:
    """The model with another plan, where one is given."""
    if plan is None:
        return spec
    ratios = plan_from(plan, of.unimod.tasks, of.model.num_layers)
    routing = dataclasses.replace(spec.routing, plan=ratios)
    return dataclasses.replace(spec, routing=routing)


def _forward(
    spec: ModelSpec, layouts: Mapping[str, RowLayout], of: Preset
) -> dict[str, dict[str, int]]:
    return {
        task: forward_flops(spec, layout, of.typical_text_tokens)
        for task, layout in layouts.items()
    }


def _changes(
    flops: Mapping[str, Mapping[str, int]],
    dense: Mapping[str, Mapping[str, int]],
    mean_tasks: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Task -> convention -> relative change, and their mean over some tasks."""
    changes = {
        task: {name: flops[task][name] / dense[task][name] - 1 for name in CONVENTIONS}
        for task in flops
    }
    mean = {
        name: sum(changes[task][name] for task in mean_tasks) / len(mean_tasks)
        for name in CONVENTIONS
    }
    return changes | {"mean": mean}


def _cached(spec: ModelSpec, layout: RowLayout) -> int:
    """Bytes of keys and values of one row; a row drawn as a whole keeps none."""
    decoded = any(layout.is_causal(name) for name in layout.stream_names)
    return cache_bytes(spec, layout) if decoded else 0


def _names() -> list[str]:
    presets = [f"  {name:<24} {each.title}" for name, each in PRESETS.items()]
    variants = [
        f"  {name:<24} {(function.__doc__ or '').splitlines()[0]}"
        for name, function in VARIANTS.items()
    ]
    return ["presets:", *presets, "", "variants:", *variants]


def _table(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    count, changes = found["parameters"], found["flops_change_vs_dense"]
    towers = ", ".join(f"{name} {n:,}" for name, n in count["towers"].items())
    rows = [
        [f"{task} ({found['tokens_per_row'][task]} tokens)"]
        + [f"{flops[name]:.3e} ({changes[task][name]:+.3f})" for name in CONVENTIONS]
        for task, flops in found["forward_flops"].items()
    ]
    mean = ["mean"] + [f"{changes['mean'][name]:+.3f}" for name in CONVENTIONS]
    caches = [
        f"  {task:<16} {cache['bytes']:>16,}  dense {cache['dense_bytes']:>16,}"
        for task, cache in found["kv_cache_bytes"].items()
    ]
    orders = [
        f"  {task:<16} {order['order']:<8}  {order['storage_blocks']:>8,} as stored"
        f"  {order['sequence_blocks']:>8,} in sequence"
        for task, order in found["attention_order"].items()
    ]
    return [
        f"{found['title']} ({found['preset']}), variant {found['variant']}",
        "",
        "parameters",
        f"  total            {count['total']:>16,}",
        f"  activated        {count['activated']:>16,}  of one token",
        f"  embedding        {count['embedding']:>16,}  in table and head",
        f"  towers           {towers}",
        "",
        "forward FLOPs per row, and their change against the dense twin",
        *_columns([["", *CONVENTIONS], *rows, mean]),
        f"  mean over {', '.join(found['mean_over'])}; training counts "
        f"{TRAINING_OVER_FORWARD} times the forward pass",
        "",
        "bytes of keys and values per decoded row",
        *caches,
        "",
        "order in which attention reads a row, and the blocks of 128 x 128 it visits",
        *orders,
    ]


def _recipe(of: Preset) -> list[str]:
    """How a preset is trained, for people: each value with its source below it."""
    sources = dict(of.source_of)
    values = {"batch_rows": of.batch_rows, **dataclasses.asdict(of.recipe)}
    lines = [f"{of.title} ({of.name})", "", "recipe"]
    for field, value in values.items():
        lines += [f"  {field:<28} {value}", *_wrapped(sources.pop(field))]
    lines += ["", "model and rows"]
    for field, sentence in sources.items():
        lines += [f"  {field}", *_wrapped(sentence)]
    return lines


def _wrapped(sentence: str) -> list[str]:
    indent = " " * 6
    return textwrap.wrap(
        sentence,
        88,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words as lines, the first column left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"  {row[0]:<{widths[0]}}  "
        + "  ".join(f"{word:>{n}}" for word, n in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


if __name__ == "__main__":
    main()
