"""How the keep ratio runs over the routed layers, from the first to the last.

UniMoD scales it "from 1 down to 0.2" over the last twelve layers of Show-o without
saying how (2502.06474, section 5.1); its FLOPs ask for a mean of 0.6, which both shapes
here have with both endpoints included. p-MoD's shape is the half cosine (2412.04449).
"""

import math
from collections.abc import Callable

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


_SHAPES = {"linear": linear, "cosine": cosine}


def keep_ratios(
    schedule: str, num_layers: int, first: float, last: float | None = None
) -> tuple[float, ...]:
    """The keep ratio of each routed layer, in their order.

    Args:
      schedule: "linear" or "cosine".
      num_layers: how many layers are routed.
      first: ratio of the first routed layer.
      last: ratio of the last; None keeps `first` throughout.

    Raises:
      ValueError: for an unknown schedule.
    """
    if schedule not in _SHAPES:
        raise ValueError(
            f"schedule {schedule!r} is not known; choose one of {sorted(_SHAPES)}."
        )
    if last is None:
        return constant(num_layers, first)
    return _SHAPES[schedule](num_layers, first, last)
