"""Which points a sweep has: the product of its axes, in the order they were given.

An axis is `NAME=VALUE,VALUE,...`, NAME an option of the experiment. A comma parts two
values and a space the words of one, as tuples need them; quotes keep a comma or a space
in a word, and `()` is the empty tuple.
"""

import collections
import hashlib
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.command_line import options_of, override
from experiments.options import canonical, check_option, options_by_name
from unimod_jax.training import Experiment, RunError

TOPOLOGY = "topology"
"""The one axis that is an option of the command, not of the experiment."""

_VALUE = re.compile(r"""(?:[^,'"]|'[^']*'|"[^"]*")+""")
_LONGEST_NAME = 120


class Point(NamedTuple):
    """One value on each axis, as text; the name is safe as that of a folder."""

    name: str
    values: Mapping[str, str]

    def options(self, *without: str) -> list[str]:
        """The point on a command line, such as ["--mod.plan", "last_half:0.2"]."""
        values = {k: value for k, value in self.values.items() if k not in without}
        return [x for k, value in values.items() for x in (f"--{k}", *_words(value))]


def parse_axes(
    texts: Sequence[str], experiment: Experiment, fixed: Sequence[str]
) -> dict[str, list[str]]:
    """Option -> its values, of an experiment and beside options that all points have.

    Raises:
      RunError: for no axis, another form, an unknown option, or one given twice.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        name, values = canonical(name), [x.strip() for x in _VALUE.findall(rest)]
        between = _VALUE.sub("", rest)
        if not (name and values and all(values) and between == "," * (len(values) - 1)):
            raise RunError(
                f"--vary {text!r} is not an axis; write NAME=VALUE,VALUE,... with no "
                "empty value, such as data.batch_size=32,64."
            )
        if name in axes or name in options_by_name(fixed):
            raise RunError(f"--{name} is given twice; put all values in one --vary.")
        if name != TOPOLOGY:
            check_option(options_of(experiment), name)
        axes[name] = values
    if not axes:
        raise RunError(
            "nothing varies; give --vary NAME=VALUE,VALUE,... at least once."
        )
    return axes


def plan_points(axes: Mapping[str, Sequence[str]]) -> list[Point]:
    """The product of all axes; the last one varies fastest.

    Raises:
      RunError: for two points that would share a folder.
    """
    every = itertools.product(*axes.values())
    values = [dict(zip(axes, one, strict=True)) for one in every]
    points = [Point(_folder_name(one), one) for one in values]
    # Folder names of some systems do not tell capitals apart.
    count = collections.Counter(point.name.casefold() for point in points)
    for point in points:
        if count[point.name.casefold()] > 1:
            raise RunError(f"two points are {point.name}; --vary each value once.")
    return points


def _folder_name(values: Mapping[str, str]) -> str:
    """Of short names, whole ones where two would be alike, and a hash if it is long."""
    last = {name: name.rpartition(".")[2] for name in values}
    count = collections.Counter(last.values())
    name = "_".join(
        f"{last[axis] if count[last[axis]] == 1 else axis}={_in_a_name(value)}"
        for axis, value in values.items()
    )
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _in_a_name(value: str) -> str:
    """A value in a folder's name: "1 3" is "1+3", "v5e:8x8" is "v5e-8x8"."""
    words = [re.sub(r"[^A-Za-z0-9._-]", "-", word) for word in _words(value)]
    return "+".join(words) or "empty"


def _words(value: str) -> list[str]:
    try:
        return [] if value == "()" else shlex.split(value)
    except ValueError as error:
        raise RunError(f"--vary has {value!r}: {error}; quote or remove it.") from None


def refusal(experiment: Experiment, point: Point, fixed: Sequence[str]) -> str | None:
    """Why a point, with the options of all, is no valid experiment; None if it is."""
    try:
        options = [*fixed, *point.options(TOPOLOGY)]
        override(experiment, options, "experiments.sweep")
    except (RunError, ValueError) as error:
        return str(error)
    return None
