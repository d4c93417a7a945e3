"""The numbers of an evaluation, as summary.json holds them."""

import dataclasses
import importlib.metadata
import os
import platform
from typing import Any

import jax

import unimod_jax
from unimod_jax.evaluation.measurement import Evaluation
from unimod_jax.training import RunDirectory
from unimod_jax.training.metric_writer import read_metrics

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("tensorflow-datasets", "scikit-learn", "numpy"),
)


def summarize(evaluation: Evaluation) -> dict[str, Any]:
    """The numbers of an evaluation, as summary.json holds them."""
    captions, drawings, twin = evaluation.captions, evaluation.drawings, evaluation.twin
    graded = evaluation.classifier_accuracy is not None
    return {
        "caption_accuracy": captions.accuracy if captions and graded else None,
        "generation_accuracy": drawings.accuracy if drawings and graded else None,
        "transcription_accuracy": evaluation.transcription_accuracy,
        "classifier_accuracy": evaluation.classifier_accuracy,
        "flops_ratio": twin.flops_ratio,
        "step_time_ratio": twin.step_time_ratio,
        "realised_saving": twin.realised_saving,
        "train_seconds": train_seconds(evaluation.trained.run),
        "held_out": evaluation.held_out,
        "step": evaluation.trained.step,
        "captions": len(captions.texts) if captions else 0,
        "drawings": len(drawings.texts) if drawings else 0,
        "caption_accuracy_per_digit": captions.per_digit() if captions else {},
        "generation_accuracy_per_digit": drawings.per_digit() if drawings else {},
        "decoding": dataclasses.asdict(evaluation.decoding),
        "dense_twin": dataclasses.asdict(twin),
        "evaluation_seconds": evaluation.seconds,
        "notes": evaluation.notes,
        "versions": _versions(),
        "machine": _machine(),
    }


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
