"""A layer plan is data: per task, the share of its tokens that each layer keeps.

The layer kinds of UniMoD (2502.06474, figure 5) are plans: a layer that no task names
is dense, one task's a text-to-image-routed or understanding-routed layer, all tasks' a
shared layer (still one router per task). So are the comparisons: a keep ratio of 0 in
every other layer is capacity-0 interleaving, and 0 from some layer on is early exit.

The functions here make keep ratios; whatever else does (an analysis, a file, a person)
is as good. `plan_file` writes and reads plans.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from unimod_jax.mod.capacity import capacity
from unimod_jax.mod.keep_schedule import in_levels, keep_ratios

type LayerRatios = tuple[float | None, ...]
"""A keep ratio for each layer; None where the task runs densely, without a router."""


@dataclasses.dataclass(frozen=True)
class TaskPlan:
    """One task's way through all layers.

    Attributes:
      task: the task group's name.
      keep_ratios: for each layer, the share of its tokens that the layer keeps: 0 skips
        the layer, 1 has a router and keeps everything, None has no router at all.
    """

    task: str
    keep_ratios: LayerRatios

    def __post_init__(self) -> None:
        """Refuses a ratio that is no share, naming task and layer."""
        for layer, ratio in enumerate(self.keep_ratios):
            if ratio is None:
                continue
            try:
                capacity(ratio, 1)
            except ValueError as error:
                raise ValueError(
                    f"layer {layer} of task {self.task!r}: {error}"
                ) from None


type LayerPlan = tuple[TaskPlan, ...]
"""The plans of the routed tasks; a task without one runs densely in all layers."""


def check_plan(plan: LayerPlan, num_layers: int) -> None:
    """Refuses a plan of another depth, or two plans of one task.

    Raises:
      ValueError: naming the tasks.
    """
    tasks = [of_task.task for of_task in plan]
    if repeated := sorted({task for task in tasks if tasks.count(task) > 1}):
        raise ValueError(
            f"tasks {repeated} have more than one plan; give each task one plan of all "
            f"layers."
        )
    for of_task in plan:
        if (found := len(of_task.keep_ratios)) != num_layers:
            raise ValueError(
                f"the plan of task {of_task.task!r} has {found} layers, but "
                f"num_layers is {num_layers}; give a plan of {num_layers} layers."
            )


def same_for(tasks: Sequence[str], ratios: LayerRatios) -> LayerPlan:
    """The plan in which each of some tasks takes the same keep ratios."""
    return tuple(TaskPlan(task, ratios) for task in tasks)


# --- Keep ratios ----------------------------------------------------------------------


def in_layers(
    num_layers: int,
    layers: Sequence[int],
    keep_ratio: float,
    final: float | None = None,
    shape: str = "linear",
    levels: int = 0,
) -> LayerRatios:
    """Routed in some layers, dense in the others.

    Args:
      num_layers: of the model.
      layers: the routed ones, from 0.
      keep_ratio: of the first of them.
      final: of the last; None keeps `keep_ratio` throughout.
      shape: how the ratio runs from the first to the last: "linear" or "cosine".
      levels: how many different ratios there are at most (`in_levels`); 0: no bound.

    Raises:
      ValueError: for a layer that does not exist, an unknown shape, or fewer than no
        levels.
    """
    if missing := sorted(set(layers) - set(range(num_layers))):
        raise ValueError(
            f"layers {missing} cannot be routed: the model has layers "
            f"0 to {num_layers - 1}."
        )
    ratios = keep_ratios(shape, len(layers), keep_ratio, final, levels)
    of_layer = dict(zip(layers, ratios, strict=True))
    return tuple(of_layer.get(layer) for layer in range(num_layers))


def last_half(
    num_layers: int,
    keep_ratio: float,
    final: float | None = None,
    shape: str = "linear",
    levels: int = 0,
) -> LayerRatios:
    """The layers UniMoD converts in Show-o and Emu3 (2502.06474, section 5.1).

    Args:
      num_layers, keep_ratio, final, shape, levels: as of `in_layers`.
    """
    layers = range(num_layers - num_layers // 2, num_layers)
    return in_layers(num_layers, layers, keep_ratio, final, shape, levels)


def every_other(
    num_layers: int,
    keep_ratio: float,
    final: float | None = None,
    shape: str = "linear",
    levels: int = 0,
) -> LayerRatios:
    """The layers Mixture-of-Depths routes (2404.02258, section 3): the odd ones.

    Args:
      num_layers, keep_ratio, final, shape, levels: as of `in_layers`.
    """
    layers = range(1, num_layers, 2)
    return in_layers(num_layers, layers, keep_ratio, final, shape, levels)


def in_every_other(ratios: LayerRatios) -> LayerRatios:
    """The same keep ratios, from the first to the last, in every other layer.

    Raises:
      ValueError: for more or fewer than half of the layers.
    """
    given = [ratio for ratio in ratios if ratio is not None]
    layers = range(1, len(ratios), 2)
    if len(given) != len(layers):
        raise ValueError(
            f"{len(given)} layers of {len(ratios)} are routed, but every other layer "
            f"is {len(layers)} of them; give a plan that routes half."
        )
    of_layer = dict(zip(layers, given, strict=True))
    return tuple(of_layer.get(layer) for layer in range(len(ratios)))


def in_stairs(ratios: LayerRatios, levels: int) -> LayerRatios:
    """The same layers, in at most so many different keep ratios (`in_levels`)."""
    given = [ratio for ratio in ratios if ratio is not None]
    stairs = iter(in_levels(given, levels))
    return tuple(None if ratio is None else next(stairs) for ratio in ratios)


def resampled(ratios: LayerRatios, num_layers: int) -> LayerRatios:
    """The keep ratios for a model of another depth.

    Each layer takes the ratio of the layer at the same relative depth whose number is
    even or odd as its own is, so every other layer stays every other layer, the last
    half the last half, and a ramp about its mean.
    """
    old = len(ratios)

    def source(layer: int) -> int:
        depth = (layer + 0.5) * old / num_layers - 0.5
        alike = [n for n in range(old) if n % 2 == layer % 2] or list(range(old))
        return min(alike, key=lambda n: abs(n - depth))

    return tuple(ratios[source(layer)] for layer in range(num_layers))


def resampled_plan(plan: LayerPlan, num_layers: int) -> LayerPlan:
    """The plan for a model of another depth, task by task (`resampled`)."""
    return tuple(
        TaskPlan(of_task.task, resampled(of_task.keep_ratios, num_layers))
        for of_task in plan
    )


def runs[Item](items: Sequence[Item]) -> tuple[tuple[Item, int], ...]:
    """Maximal runs of equal items, such as layers of a model, as (item, length)."""
    return tuple((item, len(list(group))) for item, group in itertools.groupby(items))
