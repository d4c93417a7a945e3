"""Layer plans in files and in one line of text.

A file is one JSON object, written by an analysis and read by whatever trains or counts:

    {
      "format": 1,
      "num_layers": 4,
      "tasks": {
        "text_to_image": [null, null, 0.8, 0.8],
        "image_to_text": [null, null, 1.0, 0.2]
      }
    }

with one entry per layer: a keep ratio, or null where the task runs densely. The text
form names a function of `layer_plan`, for the tasks that are routed already:

    none                       no task is routed
    last_half:0.4              the last half of the layers keep 0.4
    last_half:1:0.2:linear:4   from 1 down to 0.2 in a line, in four levels
    every_other:0.2            layers 1, 3, 5, ...
    2+3:0.5                    layers 2 and 3
"""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unimod_jax.mod.layer_plan import (
    LayerPlan,
    LayerRatios,
    TaskPlan,
    check_plan,
    every_other,
    in_layers,
    last_half,
    same_for,
)

FORMAT = 1
"""The only format there is, so far."""

NONE = "none"
"""The text of the plan that routes nothing."""

_MAKERS = {"last_half": last_half, "every_other": every_other}
_FORMS = (
    "'none', 'last_half:RATIO', 'every_other:RATIO' or '2+3:RATIO', with "
    "':FINAL:SHAPE:LEVELS' behind it for a ramp, or a .json file"
)


def plan_from(text: str, tasks: Sequence[str], num_layers: int) -> LayerPlan:
    """The plan that a word of a command line says.

    Args:
      text: path of a .json file, or the short form of a function (see above).
      tasks: that a function's ratios are for; a file names its own.
      num_layers: of the model.

    Raises:
      ValueError: for a file or a text that cannot be read, or is of another depth.
    """
    if text.endswith(".json"):
        return read_plan(Path(text), num_layers)
    if text == NONE:
        return ()
    ratios = _ratios(text, num_layers)
    if not tasks:
        raise ValueError(
            f"plan {text!r} is for the tasks that are routed, and there are none; name "
            f"them in a .json file."
        )
    return same_for(tasks, ratios)


def _ratios(text: str, num_layers: int) -> LayerRatios:
    name, *words = text.split(":")
    numbers = name.split("+")
    make: Callable[..., LayerRatios] | None = _MAKERS.get(name)
    if all(number.isdecimal() for number in numbers):
        make = functools.partial(_in_numbered, layers=tuple(map(int, numbers)))
    if make is None or not 1 <= len(words) <= 4:
        raise ValueError(f"plan {text!r} is not known; give {_FORMS}.")
    try:
        ratio, final = float(words[0]), [float(word) for word in words[1:2]]
        levels = [int(word) for word in words[3:]]
    except ValueError as error:
        raise ValueError(
            f"plan {text!r} cannot be read ({error}); give {_FORMS}."
        ) from None
    return make(num_layers, ratio, *final, *words[2:3], *levels)


def _in_numbered(num_layers: int, *ramp: Any, layers: Sequence[int]) -> LayerRatios:
    return in_layers(num_layers, layers, *ramp)


def plan_to_json(plan: LayerPlan, num_layers: int) -> str:
    """The text of a plan's file.

    Raises:
      ValueError: for a plan of another depth.
    """
    check_plan(plan, num_layers)
    # One task a line: a plan is read by people too.
    tasks = ",\n".join(
        f"    {json.dumps(of_task.task)}: {json.dumps(of_task.keep_ratios)}"
        for of_task in plan
    )
    inside = f"\n{tasks}\n  " if tasks else ""
    return (
        f'{{\n  "format": {FORMAT},\n  "num_layers": {num_layers},\n'
        f'  "tasks": {{{inside}}}\n}}\n'
    )


def write_plan(path: Path, plan: LayerPlan, num_layers: int) -> None:
    """Writes a plan's file, in place of one that may be there."""
    path.write_text(plan_to_json(plan, num_layers), encoding="utf-8")


def read_plan(path: Path, num_layers: int) -> LayerPlan:
    """The plan of a file.

    Args:
      path: of the file.
      num_layers: of the model that it is for.

    Raises:
      ValueError: if it cannot be read, or is of another depth.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ValueError(
            f"the plan {path} cannot be read ({why}); give {_FORMS}."
        ) from None
    try:
        return plan_from_json(text, num_layers)
    except ValueError as error:
        raise ValueError(f"the plan {path} cannot be used: {error}") from None


def plan_from_json(text: str, num_layers: int) -> LayerPlan:
    """The plan of a file's text.

    Raises:
      ValueError: if it is no plan, or one of another depth.
    """
    found = json.loads(text, object_pairs_hook=_without_repeats)
    wanted = {"format", "num_layers", "tasks"}
    if not isinstance(found, dict) or found.keys() != wanted:
        keys = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(
            f"it holds {keys}, but a plan is an object of exactly {sorted(wanted)}; "
            f"write it with mod.write_plan."
        )
    if found["format"] != FORMAT or isinstance(found["format"], bool):
        raise ValueError(
            f"its format is {found['format']!r}, but this version reads format "
            f"{FORMAT}; write it again."
        )
    if found["num_layers"] != num_layers or isinstance(found["num_layers"], bool):
        raise ValueError(
            f"its num_layers is {found['num_layers']!r}, but the model has "
            f"{num_layers}; make one for {num_layers} layers."
        )
    if not isinstance(found["tasks"], dict):
        raise ValueError(
            f"its tasks are {found['tasks']!r}, but they are an object; give each task "
            f"a list of keep ratios."
        )
    plan = tuple(TaskPlan(name, _listed(name, x)) for name, x in found["tasks"].items())
    check_plan(plan, num_layers)
    return plan


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{repeated} stand twice in one object; name each once.")
    return dict(pairs)


def _listed(task: str, ratios: Any) -> LayerRatios:
    """Keep ratios of a list of numbers and nulls."""

    def is_ratio(x: Any) -> bool:
        is_number = isinstance(x, int | float) and not isinstance(x, bool)
        return x is None or is_number

    if not isinstance(ratios, list) or not all(map(is_ratio, ratios)):
        raise ValueError(
            f"task {task!r} has {ratios!r}; give a list with a number or null for each "
            f"layer."
        )
    return tuple(None if x is None else float(x) for x in ratios)
