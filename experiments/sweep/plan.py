"""Which points a sweep has: the product of its axes, in the order they were given.

An axis is `NAME=VALUE,VALUE,...`, NAME an option of the experiment. A comma parts two
values and a space the words of one, as tuples need them: `mot.untied_layers=1 3,0 2`
has the points `--mot.untied_layers 1 3` and `--mot.untied_layers 0 2`. Quotes keep a
comma or a space in a word, and `()` is the empty tuple.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import io
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from experiments.command_line import override
from unimod_jax.training import Experiment, RunError

TOPOLOGY = "topology"
"""The one axis that is an option of the command, not of the experiment."""

_EMPTY_TUPLE = "()"
_VALUE = re.compile(r"""(?:[^,'"]|'[^']*'|"[^"]*")+""")
_LONGEST_NAME = 120
_HASH_DIGITS = 8


@dataclasses.dataclass(frozen=True)
class Axis:
    """An option and the values it takes, as text.

    Attributes:
      name: dotted, such as "mod.plan", or `TOPOLOGY`.
      values: at least one, no two alike.
    """

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuses values that would be one point twice.

        Raises:
          RunError: naming the value.
        """
        seen: dict[str, str] = {}
        for value in self.values:
            # Folder names of some systems do not tell capitals apart.
            name = _in_a_name(value).casefold()
            if name in seen:
                raise RunError(
                    f"--vary {self.name} has {seen[name]!r} and {value!r}, which are "
                    f"one point; give each value once."
                )
            seen[name] = value


@dataclasses.dataclass(frozen=True)
class Point:
    """One value on each axis.

    Attributes:
      name: readable, and safe as the name of a folder.
      values: axis -> value as text, in the order of the axes.
    """

    name: str
    values: Mapping[str, str]

    @property
    def options(self) -> list[str]:
        """The point on a command line, such as ["--mod.plan", "none"]."""
        return [
            word
            for name, value in self.values.items()
            for word in (f"--{name}", *_words(value))
        ]


def parse_axis(text: str) -> Axis:
    """An axis from `NAME=VALUE,VALUE,...`.

    Raises:
      RunError: if it has another form, or a value is given twice.
    """
    name, equals, rest = text.partition("=")
    name = canonical(name)
    values = tuple(value.strip() for value in _VALUE.findall(rest))
    parted_by_commas = _VALUE.sub("", rest) == "," * (len(values) - 1)
    if not (name and equals and values and all(values) and parted_by_commas):
        raise RunError(
            f"--vary {text!r} is not an axis; write NAME=VALUE,VALUE,... with no empty "
            "value, such as mod.plan=last_half:0.2,last_half:0.4."
        )
    return Axis(name, values)


def canonical(option: str) -> str:
    """An option's name without dashes: "--data.batch-size" is "data.batch_size"."""
    return option.strip().lstrip("-").replace("-", "_")


def options_by_name(words: Sequence[str]) -> dict[str, str]:
    """Option -> its words, of a command line; of one given twice the last counts."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            option, _, word = word.partition("=")
            name, found[canonical(option)] = canonical(option), word
        else:
            found[name] = f"{found.get(name, '')} {word}".strip()
    return dict(sorted(found.items()))


def plan_points(axes: Sequence[Axis]) -> list[Point]:
    """The product of all axes; the last one varies fastest."""
    names = _short_names([axis.name for axis in axes])
    return [
        Point(
            _folder_name(zip(names, values, strict=True)),
            {axis.name: value for axis, value in zip(axes, values, strict=True)},
        )
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def _short_names(names: Sequence[str]) -> list[str]:
    """The last part of each dotted name, or all of it where two would be alike."""
    last = [name.rpartition(".")[2] for name in names]
    return [
        short if last.count(short) == 1 else name
        for short, name in zip(last, names, strict=True)
    ]


def _folder_name(values: Iterable[tuple[str, str]]) -> str:
    name = "_".join(f"{axis}={_in_a_name(value)}" for axis, value in values)
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{name[:_LONGEST_NAME]}-{digest}"


def _in_a_name(value: str) -> str:
    """A value in a folder's name: "1 3" is "1+3", "v5e:8x8" is "v5e-8x8"."""
    words = [re.sub(r"[^A-Za-z0-9._-]", "-", word) for word in _words(value)]
    return "+".join(words) or "empty"


def _words(value: str) -> list[str]:
    if value == _EMPTY_TUPLE:
        return []
    try:
        return shlex.split(value)
    except ValueError as error:
        raise RunError(
            f"--vary has the value {value!r}, which cannot be read ({error}); close "
            "its quotes."
        ) from None


def check_axes(
    experiment: Experiment, axes: Sequence[Axis], fixed: Sequence[str]
) -> None:
    """Refuses axes that no point could have, before anything starts.

    Args:
      experiment: whose options are varied.
      axes: of the sweep.
      fixed: options that are the same at every point.

    Raises:
      RunError: for no axis, an unknown option, or one that is given twice.
    """
    if not axes:
        raise RunError(
            "nothing varies; give --vary NAME=VALUE,VALUE,... at least once."
        )
    names = [axis.name for axis in axes]
    fixed_names = options_by_name(fixed)
    for name in names:
        if name in fixed_names:
            raise RunError(f"--{name} is varied and given too; take one of them away.")
        if names.count(name) > 1:
            raise RunError(f"--vary {name} is given twice; put its values in one list.")
        if name != TOPOLOGY:
            _check_option(experiment, name)


def _check_option(experiment: Experiment, name: str) -> None:
    """Follows a dotted name through the experiment's dataclasses."""
    here: object = experiment
    path = ""
    for part in name.split("."):
        fields = _fields(here)
        if part not in fields:
            close = difflib.get_close_matches(part, fields, n=1)
            hint = f"did you mean {path}{close[0]}?" if close else "see --help."
            raise RunError(f"--vary {name}: the experiment has no such option; {hint}")
        here = getattr(here, part)
        path += f"{part}."
    if fields := _fields(here):
        raise RunError(
            f"--vary {name}: it is a group of options; vary one of them, such as "
            f"{path}{fields[0]}."
        )


def _fields(value: object) -> list[str]:
    if not dataclasses.is_dataclass(value):
        return []
    return [field.name for field in dataclasses.fields(value)]


def refusal(
    experiment: Experiment, point: Point, fixed: Sequence[str], program: str
) -> str | None:
    """Why a point is no valid experiment, in a sentence; None if it is one.

    Args:
      experiment: the defaults.
      point: of the sweep.
      fixed: options that are the same at every point.
      program: the command, for messages.
    """
    values = {name: text for name, text in point.values.items() if name != TOPOLOGY}
    options = [*fixed, *Point(point.name, values).options]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            override(experiment, options, program)
    except SystemExit:
        return option_error(printed.getvalue()) or "its options are not valid."
    except (RunError, ValueError) as error:
        return str(error)
    return None


def option_error(printed: str) -> str | None:
    """The sentence in the box that tyro draws around a wrong option, if there is one.

    Args:
      printed: what the command wrote, whatever the box is drawn with.
    """
    text = " ".join(re.sub(r"[─-╿]|-{5,}", " ", printed).split())
    found = re.search(
        r"(?:Error parsing (?=\S+:)|(?=Unrecognized options: |Missing ))(.*?)"
        r" *(?:Argument helptext|Perhaps you meant|For full helptext|$)",
        text,
    )
    return found[1] if found else None
