"""The numbers of an evaluation, as summary.json holds them."""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Any

import jax

import unimod_jax
from unimod_jax.evaluation.judged_rows import KINDS, JudgedPiece
from unimod_jax.evaluation.measurement import Evaluation
from unimod_jax.training import RunDirectory
from unimod_jax.training.metric_writer import read_metrics

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("tensorflow-datasets", "scikit-learn", "numpy"),
)


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """The numbers of an evaluation, as summary.json holds them."""
    pieces, twin = evaluation.pieces, evaluation.twin
    return {
        **{f"{kind}_accuracy": _accuracy_of(pieces, kind) for kind in KINDS},
        "accuracy": {piece.name: piece.accuracy for piece in pieces},
        "judge_accuracy": evaluation.judge_accuracy,
        "flops_ratio": twin.flops_ratio,
        "step_time_ratio": twin.step_time_ratio,
        "realised_saving": twin.realised_saving,
        "train_seconds": train_seconds(evaluation.trained.run),
        "held_out": evaluation.held_out,
        "step": evaluation.trained.step,
        "rows_written": {piece.name: len(piece.written) for piece in pieces},
        "accuracy_per_wanted": {piece.name: piece.per_wanted() for piece in pieces},
        "decoding": dataclasses.asdict(evaluation.decoding),
        "dense_twin": dataclasses.asdict(twin),
        "evaluation_seconds": evaluation.seconds,
        "notes": evaluation.notes,
        "versions": _versions(),
        "machine": _machine(),
    }


def _accuracy_of(pieces: Sequence[JudgedPiece], kind: str) -> float | None:
    """Share that is right of all judged rows of a kind; None if there are none."""
    right = [each for piece in pieces if piece.kind == kind for each in piece.right]
    return sum(right) / len(right) if right else None


def train_seconds(run: RunDirectory) -> float:
    """Seconds spent taking steps, over all resumptions, compilation included.

    Each row of metrics.jsonl has the mean seconds of the steps since the row before.
    """
    rows = read_metrics(run.metrics) if run.metrics.exists() else []
    total, step_before = 0.0, 0
    for row in rows:
        total += row["step_seconds"] * (row["step"] - step_before)
        step_before = row["step"]
    return total


def _versions() -> dict[str, str]:
    own = {"unimod_jax": unimod_jax.__version__, "python": platform.python_version()}
    return own | {name: importlib.metadata.version(name) for name in _PACKAGES}


def _machine() -> dict[str, str | int]:
    devices = jax.devices()
    return {
        "platform": platform.platform(),
        "cpu_count": os.cpu_count() or 0,
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
    }
