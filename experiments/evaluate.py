"""Evaluates a run: `python -m experiments.evaluate RUN`.

Captions held-out images, draws others, times a training step beside its dense twin's,
and writes summary.json and report.html into the run directory.
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; the last line printed is the path of what it wrote."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evaluate", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument(
        "--images", type=_count, default=200, help="images to draw (default: 200)"
    )
    parser.add_argument(
        "--captions", type=_count, help="held-out images to caption (default: all)"
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
        from unimod_jax.evaluation import evaluate
        from unimod_jax.training import RunDirectory

        summary = evaluate(
            options.run,
            captions_limit=options.captions,
            images=options.images,
            report=not options.no_report,
            twin_seconds=options.twin_seconds,
        )
        print("\n".join(summary_lines(summary)))
        run = RunDirectory(options.run)
        print(run.summary if options.no_report else run.report)


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The headline numbers, one a line."""
    names = (
        *("caption_accuracy", "generation_accuracy", "transcription_accuracy"),
        "classifier_accuracy",
        *("flops_ratio", "step_time_ratio", "realised_saving", "train_seconds"),
    )
    lines = [
        f"{name:<24} {'-' if summary[name] is None else format(summary[name], '.3f')}"
        for name in names
    ]
    return lines + [f"note: {note}" for note in summary["notes"]]


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a count; give 1 or more")
    return number


if __name__ == "__main__":
    keep_compiled_programs()
    main()
