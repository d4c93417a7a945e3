"""How the keep ratio runs over the routed layers, from the first to the last.

UniMoD scales it "from 1 down to 0.2" over the last twelve layers of Show-o without
saying how (2502.06474, section 5.1); its FLOPs ask for a mean of 0.6, which both shapes
here have with both endpoints included. p-MoD's shape is the half cosine (2412.04449).

Every ratio is a capacity of its own to compile. A schedule in a few levels is a stair
of the same mean: as many tokens over all layers, in fewer capacities.
"""

import itertools
import math
from collections.abc import Callable, Sequence

_DIGITS = 9
"""Ratios are rounded, so that layers with the same ratio are the same layer."""


def constant(num_layers: int, keep: float) -> tuple[float, ...]:
    """The same keep ratio in each of num_layers routed layers."""
    return (keep,) * num_layers


def linear(num_layers: int, first: float, last: float) -> tuple[float, ...]:
    """A straight line through the routed layers, both endpoints included.

    One layer alone gets `last`: schedules say what the deepest layer keeps.
    """
    return _between(first, last, num_layers, lambda progress: progress)


def cosine(num_layers: int, first: float, last: float) -> tuple[float, ...]:
    """A half cosine: flat at both ends, steep in the middle, endpoints included.

    One layer alone gets `last`.
    """
    return _between(
        first,
        last,
        num_layers,
        lambda progress: 0.5 - 0.5 * math.cos(math.pi * progress),
    )


def _between(
    first: float, last: float, num_layers: int, share: Callable[[float], float]
) -> tuple[float, ...]:
    """first + share * (last - first), with share a function of progress in [0, 1]."""
    if num_layers == 1:
        return (last,)
    shares = [share(layer / (num_layers - 1)) for layer in range(num_layers)]
    return tuple(round(first * (1.0 - s) + last * s, _DIGITS) for s in shares)


def in_levels(ratios: Sequence[float], levels: int) -> tuple[float, ...]:
    """A schedule as a stair of a few levels, with the same mean.

    Neighbouring layers form groups as equal as they can be, and
    each layer takes the mean of its group. A monotonic schedule stays monotonic, and no
    ratio leaves the range.

    Args:
      ratios: of each routed layer.
      levels: how many different ratios there are at most; 0 leaves each its own.

    Raises:
      ValueError: for fewer than no levels.
    """
    if levels < 0:
        raise ValueError(
            f"levels is {levels}; give the number of different keep ratios, or 0 for "
            f"a ratio of its own in each layer."
        )
    num_layers = len(ratios)
    if not 0 < levels < num_layers:
        return tuple(ratios)
    ends = [num_layers * level // levels for level in range(levels + 1)]
    stair: list[float] = []
    for start, end in itertools.pairwise(ends):
        group = ratios[start:end]
        stair += [round(math.fsum(group) / len(group), _DIGITS)] * len(group)
    return tuple(stair)


_SHAPES = {"linear": linear, "cosine": cosine}


def keep_ratios(
    schedule: str,
    num_layers: int,
    first: float,
    last: float | None = None,
    levels: int = 0,
) -> tuple[float, ...]:
    """The keep ratio of each routed layer, in their order.

    Args:
      schedule: "linear" or "cosine".
      num_layers: how many layers are routed.
      first: ratio of the first routed layer.
      last: ratio of the last; None keeps `first` throughout.
      levels: as of `in_levels`.

    Raises:
      ValueError: for an unknown schedule, or fewer than no levels.
    """
    if schedule not in _SHAPES:
        raise ValueError(
            f"schedule {schedule!r} is not known; choose one of {sorted(_SHAPES)}."
        )
    if last is None:
        return in_levels(constant(num_layers, first), levels)
    return in_levels(_SHAPES[schedule](num_layers, first, last), levels)
