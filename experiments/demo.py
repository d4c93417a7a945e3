"""Trains the toy of `experiments/toy/demo.py`, evaluates it, and writes its report.

Everything goes to one run directory; a second call resumes or evaluates what is there.
The last line on standard output is the path of the report.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import (
    keep_compiled_programs,
    load_experiment,
    one_sentence_errors,
    show_log,
)
from experiments.evaluate import summary_lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.demo", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=Path("runs/demo"),
        help="where to write (default: runs/demo)",
    )
    options = parser.parse_args(arguments)
    show_log()
    start = time.monotonic()
    with one_sentence_errors():
        from unimod_jax.evaluation import evaluate
        from unimod_jax.training import train

        run = train(load_experiment("toy/demo"), options.run_dir)
        _say(f"trained in {time.monotonic() - start:.0f} s; evaluating")
        summary = evaluate(run.path)
        _say(*summary_lines(summary))
        _say(f"{time.monotonic() - start:.0f} s in all")
        print(run.report)


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    keep_compiled_programs()
    main()
