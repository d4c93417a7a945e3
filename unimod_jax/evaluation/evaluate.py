"""Evaluates a trained run: captions, drawings, routing, and cost beside a dense twin.

Everything is measured on held-out records, with the newest whole checkpoint; the
numbers go to summary.json and the pictures to report.html.
"""

import json
import os
from typing import Any

from unimod_jax.evaluation.measurement import USUAL, Limits, measure
from unimod_jax.evaluation.report import write_report
from unimod_jax.evaluation.summary import summarize
from unimod_jax.evaluation.trained_run import open_run
from unimod_jax.training.run_directory import write_atomically


def evaluate(
    run_path: str | os.PathLike[str],
    limits: Limits = USUAL,
    *,
    report: bool = True,
) -> dict[str, Any]:
    """Evaluates a run and writes summary.json, and report.html if asked.

    Args:
      run_path: a run directory with a checkpoint.
      limits: how much to measure.
      report: whether to write report.html.

    Returns:
      The summary.

    Raises:
      RunError, DataError: one sentence each.
    """
    trained = open_run(run_path)
    evaluation = measure(trained, limits)
    summary = summarize(evaluation)
    write_atomically(trained.run.summary, json.dumps(summary, indent=2) + "\n")
    if report:
        write_report(evaluation, summary)
    return summary
