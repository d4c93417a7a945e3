"""The picture sections of a report as plain data: what stands where, as data URIs."""

from typing import Any

import numpy as np

from unimod_jax.evaluation.accuracy import NUM_DIGITS, Judged, label_of
from unimod_jax.evaluation.dense_twin import DenseTwinComparison
from unimod_jax.evaluation.measurement import Evaluation
from unimod_jax.evaluation.pictures import data_uri, heat_image

HEAT = ((246, 244, 238), (176, 198, 214), (84, 132, 176), (30, 62, 110), (16, 28, 58))
"""From never (paper) to always (ink); its lightness falls evenly."""

_IMAGES_PER_DIGIT = 10
_MOST_CAPTIONS = 12
_MOST_DRAWINGS = 60


def drawing_section(evaluation: Evaluation) -> dict[str, Any] | None:
    """Drawings, beside real scans by digit where there are digits."""
    drawings = evaluation.drawings
    if drawings is None:
        return None
    if evaluation.classifier_accuracy is None:
        cells = [_drawing(drawings, index) for index in range(len(drawings.texts))]
        return {"rows": None, "cells": cells[:_MOST_DRAWINGS]}
    rows = []
    for digit in range(NUM_DIGITS):
        drawn = np.flatnonzero(drawings.wanted == digit)
        real = [
            record.images[0].pixels
            for record in evaluation.records
            if label_of(record) == digit
        ]
        rows.append(
            {
                "digit": digit,
                "drawn": [_drawing(drawings, i) for i in drawn[:_IMAGES_PER_DIGIT]],
                "real": [data_uri(image) for image in real[:_IMAGES_PER_DIGIT]],
                "share": float(np.mean(drawings.right[drawn])) if len(drawn) else None,
                "count": len(drawn),
            }
        )
    return {"rows": rows, "cells": None}


def _drawing(drawings: Judged, index: int) -> dict[str, Any]:
    return {
        "uri": data_uri(drawings.images[index]),
        "prompt": drawings.texts[index],
        "right": bool(drawings.right[index]),
        "told": int(drawings.told[index]),
    }


def caption_section(evaluation: Evaluation) -> dict[str, Any] | None:
    """Captions, right and wrong; in held-out order where nothing is graded.

    The right ones are the first of every digit in turn, so that all digits are seen.
    """
    captions = evaluation.captions
    if captions is None:
        return None
    if evaluation.classifier_accuracy is None:
        shown = range(min(_MOST_CAPTIONS, len(captions.texts)))
        return {
            "graded": False,
            "right": [_caption(captions, index) for index in shown],
            "wrong": [],
            "num_wrong": 0,
        }
    right = _digits_in_turn(captions)
    wrong = np.flatnonzero(~captions.right)
    return {
        "graded": True,
        "right": [_caption(captions, index) for index in right[:_MOST_CAPTIONS]],
        "wrong": [_caption(captions, index) for index in wrong[:_MOST_CAPTIONS]],
        "num_wrong": len(wrong),
    }


def _digits_in_turn(captions: Judged) -> list[int]:
    """Indices of right captions: the first of each digit, then the second, ..."""
    seen = dict.fromkeys(range(NUM_DIGITS), 0)
    order = []
    for index in np.flatnonzero(captions.right):
        digit = int(captions.wanted[index])
        order.append((seen[digit], digit, int(index)))
        seen[digit] += 1
    return [index for _, _, index in sorted(order)]


def _caption(captions: Judged, index: int) -> dict[str, Any]:
    return {
        "uri": data_uri(captions.images[index]),
        "text": captions.texts[index],
        "wanted": int(captions.wanted[index]),
        "told": int(captions.told[index]),
    }


def routing_section(evaluation: Evaluation) -> dict[str, Any] | None:
    """Routing maps by task and layer, and the average scan for orientation."""
    if not evaluation.maps:
        return None
    data = evaluation.trained.experiment.data
    by_task: dict[str, list[dict[str, Any]]] = {}
    for routing_map in evaluation.maps:
        picture = routing_map.picture(data.image_channels)
        by_task.setdefault(routing_map.task, []).append(
            {
                "layer": routing_map.layer,
                "uri": data_uri(heat_image(picture, HEAT)),
                "mean": float(picture.mean()),
                "low": float(picture.min()),
                "high": float(picture.max()),
            }
        )
    images = np.stack([record.images[0].pixels for record in evaluation.records])
    stops = ", ".join(f"rgb{color}" for color in HEAT)
    return {
        "tasks": sorted(by_task.items(), reverse=True),
        "average": data_uri(images.mean(axis=0).round().astype(np.uint8)),
        "gradient": f"linear-gradient(to right, {stops})",
    }


def twin_section(twin: DenseTwinComparison) -> list[dict[str, Any]]:
    """Pairs of bars: this model and its dense twin, as shares of the longer one."""
    pairs = [
        ("FLOPs of a training step", twin.flops, twin.dense_flops, 1e9, " GFLOP"),
        ("Time of a training step", twin.seconds, twin.dense_seconds, 1e-3, " ms"),
        ("Parameters", twin.parameters, twin.dense_parameters, 1e6, " M"),
    ]
    return [
        {
            "title": title,
            "ratio": own / dense,
            "bars": [
                {
                    "who": who,
                    "width": 100 * value / max(own, dense),
                    "text": f"{value / unit:.3g}{suffix}",
                }
                for who, value in (("This model", own), ("Dense twin", dense))
            ],
        }
        for title, own, dense, unit, suffix in pairs
    ]
