"""Lays runs side by side: `python -m experiments.compare RUN RUN ...`.

The first run is the baseline. For each other run and each held-out loss: what share of
the baseline's steps, FLOPs and seconds it needs to reach the same losses, as the slope
of a line through the matched points and, in brackets, at the end ("-": never reached;
see unimod_jax/evaluation/step_matching.py). Runs may differ in size, towers and
routing; they need only config.json and metrics.jsonl.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import one_sentence_errors, show_log


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; prints the matching, then the files that it wrote."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="run directories"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all numbers and curves"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write one HTML page with charts"
    )
    options = parser.parse_args(arguments)
    show_log()
    with one_sentence_errors():
        from unimod_jax.evaluation import check_writable
        from unimod_jax.evaluation.comparison import (
            compare,
            matching_lines,
            write_page,
        )
        from unimod_jax.training.run_directory import write_atomically

        for path in filter(None, (options.json, options.out)):
            check_writable(path, "the comparison")
        comparison = compare(options.runs)
        lines = matching_lines(comparison)
        lines += [f"note: {note}" for note in comparison.notes]
        print("\n".join(lines))
        if options.json:
            text = json.dumps(comparison.as_json(), indent=2, allow_nan=False)
            write_atomically(options.json, text + "\n")
            print(options.json)
        if options.out:
            write_page(comparison, options.out)
            print(options.out)


if __name__ == "__main__":
    main()
