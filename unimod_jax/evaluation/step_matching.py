"""Step matching (2411.04996, section 3): what share of a run another one needs.

For each loss that the baseline reaches, when does the other run reach it? Both curves
are measured at some places (steps, FLOPs or seconds), and straight lines lie between:

    loss  b
          | b             at b's place x the loss is l; o reaches l at place y
        o |   b
          o- - - b - - l
            o      b      (y, x) is a matched point
              o
          y      x

The paper plots y over x and prints a number s beside it, without saying how it is made.
It is not the ratio at the end (figure 5 says 50% of the steps, and s = 45.5%), and it
is printed where the last loss is never reached. So s is taken here, by inference, for
the slope of the least-squares line through the origin over the matched points; and the
ratio at the end is given beside it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Curve:
    """A loss as it was measured.

    Attributes:
      places: steps, FLOPs or seconds, strictly increasing.
      losses: at each of them.
    """

    places: Sequence[float]
    losses: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Matching:
    """The share of the baseline's places that the other run needs.

    Attributes:
      slope: of a line through the origin and the matched points; None without any.
      end_point: at the baseline's lowest loss; None if the other never reaches it.
      matched: how many points the line is fitted to.
    """

    slope: float | None
    end_point: float | None
    matched: int


def match(baseline: Curve, other: Curve) -> Matching:
    """Matches the losses of two runs.

    The baseline asks only where its loss is lower than ever before. What the other run
    had reached before its first measurement is no point of the line, for nobody knows
    when; at the end point its first measurement counts, so the share is that at most.

    Args:
      baseline: whose losses are to be reached.
      other: which is to reach them.
    """
    asked = _new_lows(baseline)
    reached = [_first_place(other, loss) for _, loss in asked]
    first = other.places[0] if len(other.places) else 0.0
    points = [
        (place, found)
        for (place, _), found in zip(asked, reached, strict=True)
        if found is not None and found > first
    ]
    end_point = None
    if asked and reached[-1] is not None:
        end_point = float(reached[-1] / asked[-1][0])
    return Matching(_slope(points), end_point, len(points))


def _new_lows(curve: Curve) -> list[tuple[float, float]]:
    """Places and losses where the loss is lower than at all places before."""
    lows: list[tuple[float, float]] = []
    for place, loss in zip(curve.places, curve.losses, strict=True):
        if not lows or loss < lows[-1][1]:
            lows.append((place, loss))
    return lows


def _first_place(curve: Curve, loss: float) -> float | None:
    """Where a curve first is as low as a loss, on straight lines; None if nowhere."""
    low = np.flatnonzero(np.asarray(curve.losses) <= loss)
    if not len(low):
        return None
    index = int(low[0])
    if index == 0:
        return float(curve.places[0])
    before, after = curve.losses[index - 1], curve.losses[index]
    share = (before - loss) / (before - after)
    start, end = curve.places[index - 1], curve.places[index]
    return float(start + share * (end - start))


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Of the least-squares line through the origin: sum(x y) / sum(x x)."""
    if not points:
        return None
    x, y = np.asarray(points, np.float64).T
    return float(x @ y / (x @ x))
