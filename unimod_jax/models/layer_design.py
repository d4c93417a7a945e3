"""What each layer routes and unties, and which layers are scanned as one body."""

import dataclasses
import itertools
from collections.abc import Sequence

from unimod_jax import mod
from unimod_jax.mot import UntyingMap


@dataclasses.dataclass(frozen=True)
class LayerDesign:
    """One layer: the routes of the tasks it routes, and what it unties.

    Attributes:
      routes: of the tasks that the layer routes; other tasks run densely.
      untying: which modality uses which tower.
    """

    routes: tuple[mod.Route, ...]
    untying: UntyingMap

    def route_of(self, task: str) -> mod.Route | None:
        """The task's route, or None where the task runs densely."""
        return next((route for route in self.routes if route.task == task), None)

    @property
    def without_ratios(self) -> "LayerDesign":
        """What fixes the layer's parameters: all but its keep ratios."""
        routes = tuple(route.without_ratio for route in self.routes)
        return LayerDesign(routes, self.untying)


type LayerRun = tuple[LayerDesign, ...]
"""Neighbouring layers that are alike: their parameters are stacked in one tree."""


def layer_runs(designs: Sequence[LayerDesign]) -> tuple[LayerRun, ...]:
    """All layers in maximal runs of layers that differ in keep ratios at most."""
    grouped = itertools.groupby(designs, key=lambda design: design.without_ratios)
    return tuple(tuple(run) for _, run in grouped)
