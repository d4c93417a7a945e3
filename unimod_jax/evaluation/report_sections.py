"""The picture sections of a report as plain data: what stands where, as data URIs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unimod_jax.data import Held, Image
from unimod_jax.evaluation.dense_twin import DenseTwinComparison
from unimod_jax.evaluation.judged_rows import JudgedPiece, as_written
from unimod_jax.evaluation.measurement import Evaluation
from unimod_jax.evaluation.pictures import data_uri, heat_image

HEAT = ((246, 244, 238), (176, 198, 214), (84, 132, 176), (30, 62, 110), (16, 28, 58))
"""From never (paper) to always (ink); its lightness falls evenly."""

_IMAGES_PER_LINE = 10
_MOST_SHOWN = 12
_MOST_DRAWINGS = 60
_MOST_LINES = 20


def drawing_section(
    piece: JudgedPiece, accuracy: Mapping[str, float]
) -> dict[str, Any]:
    """Drawings of a task, beside real images, a line for each thing that was wanted.

    Args:
      piece: what was drawn.
      accuracy: of the judge, by part.
    """
    found = _heading(piece, accuracy)
    wanted = piece.by_wanted()
    if not 0 < len(wanted) <= _MOST_LINES:
        rows = range(min(_MOST_DRAWINGS, len(piece.written)))
        return found | {"lines": None, "cells": [_drawing(piece, i) for i in rows]}
    share, lines = piece.per_wanted(), []
    for name, rows in wanted.items():
        # A record may be asked for several times, but is one real image.
        real = list({id(piece.real[row]): piece.real[row] for row in rows}.values())
        shown = [as_written(part) for part in real[:_IMAGES_PER_LINE]]
        line = {
            "wanted": name,
            "drawn": [_drawing(piece, row) for row in rows[:_IMAGES_PER_LINE]],
            "real": [data_uri(x) for x in shown if isinstance(x, np.ndarray)],
            "share": share[name],
        }
        lines.append(line)
    return found | {"lines": lines, "cells": None}


def text_section(piece: JudgedPiece, accuracy: Mapping[str, float]) -> dict[str, Any]:
    """Texts or utterances of a task, right and wrong; in order if nobody judged them.

    The right ones are the first of each thing that was wanted, in turn.

    Args:
      piece: what was written.
      accuracy: of the judge, by part.
    """
    found = _heading(piece, accuracy)
    if not piece.right:
        rows = range(min(_MOST_SHOWN, len(piece.written)))
        shown = [_line(piece, row) for row in rows]
        return found | {"graded": False, "right": shown, "wrong": [], "num_wrong": 0}
    right = [
        [r for r in rows if _right(piece, r)] for rows in piece.by_wanted().values()
    ]
    turns = itertools.chain(*itertools.zip_longest(*right))
    in_turn = [row for row in turns if row is not None]
    wrong = [
        row
        for row, verdict in enumerate(piece.verdicts)
        if verdict and not verdict.right
    ]
    return found | {
        "graded": True,
        "right": [_line(piece, row) for row in in_turn[:_MOST_SHOWN]],
        "wrong": [_line(piece, row) for row in wrong[:_MOST_SHOWN]],
        "num_wrong": len(wrong),
    }


def _heading(piece: JudgedPiece, accuracy: Mapping[str, float]) -> dict[str, Any]:
    return {
        "judge": accuracy.get(piece.real[0].name) if piece.real else None,
        "task": piece.task,
        "piece": piece.piece,
        "kind": piece.kind,
        "accuracy": piece.accuracy,
        "count": len(piece.written),
    }


def _right(piece: JudgedPiece, row: int) -> bool:
    verdict = piece.verdicts[row]
    return verdict is not None and verdict.right


def _drawing(piece: JudgedPiece, row: int) -> dict[str, Any]:
    verdict = piece.verdicts[row]
    image = piece.written[row]
    assert isinstance(image, np.ndarray)
    return {
        "uri": data_uri(image),
        "shown": _shown_text(piece, row),
        "right": verdict is None or verdict.right,
        "told": verdict.told if verdict else "",
    }


def _line(piece: JudgedPiece, row: int) -> dict[str, Any]:
    verdict, written = piece.verdicts[row], piece.written[row]
    images = [x for x in piece.shown[row].values() if isinstance(x, Image)]
    return {
        "uri": data_uri(images[0].pixels) if images else None,
        "shown": _shown_text(piece, row),
        "text": written if isinstance(written, str) else _units(written),
        "wanted": verdict.wanted if verdict else "",
    }


def _shown_text(piece: JudgedPiece, row: int) -> str:
    """What the row showed beside images, the nearest last."""
    shown = []
    for value in piece.shown[row].values():
        if isinstance(value, str):
            shown.append(value)
        elif not isinstance(value, Image | Held):
            shown.append(_units(value))
    return " · ".join(shown)


def _units(units: Sequence[int] | np.ndarray) -> str:
    return "units " + " ".join(str(unit) for unit in units)


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
    images = np.stack(
        [record.images[0].pixels for record in evaluation.records if record.images]
    )
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
