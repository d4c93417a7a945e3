"""A layer plan is data: per layer, which tasks are routed and how many tokens stay.

The layer kinds of UniMoD (2502.06474, figure 5) are plans: no routes is a dense layer,
one route a text-to-image-routed or understanding-routed layer, all routes a shared
layer (still one router per task). Runs of equal layers are scanned as one compiled
body.
"""

import dataclasses
import itertools
from collections.abc import Collection, Sequence


@dataclasses.dataclass(frozen=True)
class Route:
    """How one task passes through a routed layer.

    Attributes:
      task: the task group's name.
      keep_ratio: share of each stream's slots that the layer keeps.
      stream_keep_ratios: (stream, ratio) pairs that override `keep_ratio`.
    """

    task: str
    keep_ratio: float
    stream_keep_ratios: tuple[tuple[str, float], ...] = ()

    def keep_ratio_of(self, stream: str) -> float:
        """The keep ratio of one stream."""
        return dict(self.stream_keep_ratios).get(stream, self.keep_ratio)


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """One layer: the routes of the tasks it routes; other tasks run densely."""

    routes: tuple[Route, ...] = ()

    def route_of(self, task: str) -> Route | None:
        """The task's route, or None where the task runs densely."""
        return next((route for route in self.routes if route.task == task), None)


type LayerPlan = tuple[LayerSpec, ...]


def plan_layers(
    num_layers: int, routed_layers: Collection[int], routes: Sequence[Route]
) -> LayerPlan:
    """A plan with the same routes in each routed layer and dense layers elsewhere.

    Raises:
      ValueError: for a routed layer that does not exist.
    """
    if missing := sorted(set(routed_layers) - set(range(num_layers))):
        raise ValueError(
            f"layers {missing} cannot be routed: the model has layers "
            f"0 to {num_layers - 1}."
        )
    routed = LayerSpec(tuple(routes))
    return tuple(
        routed if layer in routed_layers else LayerSpec() for layer in range(num_layers)
    )


def last_half(num_layers: int) -> tuple[int, ...]:
    """The layers UniMoD converts in Show-o and Emu3 (2502.06474, section 5.1)."""
    return tuple(range(num_layers - num_layers // 2, num_layers))


def every_other_layer(num_layers: int) -> tuple[int, ...]:
    """The layers Mixture-of-Depths routes (2404.02258, section 3): the odd ones."""
    return tuple(range(1, num_layers, 2))


def runs(plan: LayerPlan) -> tuple[tuple[LayerSpec, int], ...]:
    """Maximal runs of equal layers, as (spec, length)."""
    return tuple((spec, len(list(group))) for spec, group in itertools.groupby(plan))
