"""Evaluates a run: `python -m experiments.evaluate RUN`.

Has every task write its part of held-out records, which the data set's judge grades,
times a training step beside its dense twin's, and writes summary.json and report.html
into the run directory.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.command_line import (
    keep_compiled_programs,
    one_sentence_errors,
    show_log,
)

HEADLINES = (
    *("caption_accuracy", "generation_accuracy", "transcription_accuracy"),
    *("flops_ratio", "step_time_ratio", "realised_saving", "train_seconds"),
)
_EACH = ("accuracy", "judge_accuracy")
"""Numbers of each written piece, and of each part that is judged."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the last line printed is the path of what it wrote."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evaluate", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument(
        "--images",
        type=_count,
        default=200,
        help="images to draw for each task that does (default: 200)",
    )
    parser.add_argument(
        "--rows",
        type=_count,
        help="held-out records whose texts and utterances to write (default: all)",
    )
    parser.add_argument(
        "--twin-seconds",
        type=float,
        default=25.0,
        help="seconds of training steps beside the dense twin (default: 25)",
    )
    parser.add_argument(
        "--no-report", action="store_true", help="write summary.json only"
    )
    options = parser.parse_args(arguments)
    show_log()
    with one_sentence_errors():
        from unimod_jax.evaluation import Limits, evaluate
        from unimod_jax.training import RunDirectory

        limits = Limits(options.rows, options.images, options.twin_seconds)
        summary = evaluate(options.run, limits, report=not options.no_report)
        print("\n".join(summary_lines(summary)))
        run = RunDirectory(options.run)
        print(run.summary if options.no_report else run.report)


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The headline numbers, one a line."""
    numbers = {name: summary[name] for name in HEADLINES}
    numbers |= {f"{name} of {x}": y for name in _EACH for x, y in summary[name].items()}
    width = max(map(len, numbers))
    lines = [
        f"{name:<{width}} {'-' if value is None else format(value, '.3f')}"
        for name, value in numbers.items()
    ]
    return lines + [f"note: {note}" for note in summary["notes"]]


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a count; give 1 or more")
    return number


if __name__ == "__main__":
    keep_compiled_programs()
    main()
