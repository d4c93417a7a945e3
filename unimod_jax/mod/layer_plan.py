"""A layer plan is data: per layer, which tasks are routed and how many tokens stay.

The layer kinds of UniMoD (2502.06474, figure 5) are plans: no routes is a dense layer,
one route a text-to-image-routed or understanding-routed layer, all routes a shared
layer (still one router per task). Each task takes its own path: a set of layers and a
keep ratio for each. So are the comparisons: one router name for all tasks is Basic MoD,
a keep ratio of 0 in every other layer is capacity-0 interleaving, and 0 from some layer
on is early exit. Neighbours that differ in keep ratios at most are scanned as one body.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from unimod_jax.mod.capacity import capacity

type LayerPlan = tuple[LayerSpec, ...]

Scorer = Literal["linear", "random", "attention"]
WeightName = Literal["gentle", "sigmoid", "raw", "one"]
CausalRule = Literal["following_threshold", "trained_threshold", "predictor", "top_k"]


@dataclasses.dataclass(frozen=True)
class Route:
    """How one task passes through a routed layer.

    Attributes:
      task: the task group's name.
      keep_ratio: share of each stream's slots that the layer keeps; 0: the task skips
        the layer, whatever the streams' own ratios.
      stream_keep_ratios: (stream, ratio) pairs that override `keep_ratio`.
      router: name of the router it uses, "" for the task's own; tasks that give the
        same name share one (Basic MoD).
      scorer: what ranks tokens: a learned "linear" router, a "random" draw, or the
        "attention" they receive.
      score_weight: one of `SCORE_WEIGHTS`; "one" for scores that nothing learns.
      causal_rule: how tokens of causal streams are chosen, see `TokenChoice`.
    """

    task: str
    keep_ratio: float = 1.0
    stream_keep_ratios: tuple[tuple[str, float], ...] = ()
    router: str = ""
    scorer: Scorer = "linear"
    score_weight: WeightName = "gentle"
    causal_rule: CausalRule = "following_threshold"

    def __post_init__(self) -> None:
        """Refuses ratios that are no shares, unknown names, and unlearnable choices."""
        capacity(self.keep_ratio, 1)
        for stream, ratio in self.stream_keep_ratios:
            if not capacity(ratio, 1):
                raise ValueError(
                    f"stream {stream!r} of task {self.task!r} has keep_ratio {ratio}, "
                    f"but a layer is skipped by whole tasks; give a ratio above 0."
                )
        for field, names in (
            ("scorer", get_args(Scorer)),
            ("score_weight", get_args(WeightName)),
            ("causal_rule", get_args(CausalRule)),
        ):
            if (value := getattr(self, field)) not in names:
                raise ValueError(
                    f"{field} {value!r} is not known; choose one of {names}."
                )
        if self.scorer == "linear":
            return
        if self.score_weight != "one":
            raise ValueError(
                f"score_weight {self.score_weight!r} weighs with {self.scorer} scores, "
                f"which nothing trains; use 'one'."
            )
        if self.causal_rule == "trained_threshold":
            raise ValueError(
                f"causal_rule 'trained_threshold' trains a linear router's scores, but "
                f"the scorer is {self.scorer!r}; use another rule."
            )

    @property
    def router_name(self) -> str:
        """Name of the router it uses."""
        return self.router or self.task

    @property
    def skips_layer(self) -> bool:
        """Whether the task passes the layer by: nothing is kept, nothing is run."""
        return self.keep_ratio == 0.0

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

    @property
    def without_ratios(self) -> "LayerSpec":
        """The layer with every task that it routes kept whole.

        Layers that are equal without their ratios have the same parameters: those of a
        ramp, for one. A task that skips the layer still does.
        """
        return LayerSpec(
            tuple(
                route
                if route.skips_layer
                else dataclasses.replace(route, keep_ratio=1.0)
                for route in self.routes
            )
        )

    @property
    def kind(self) -> str:
        """The layer's kind, for reports: "dense", "<task>-routed" or "shared"."""
        match self.routes:
            case ():
                return "dense"
            case (only,):
                return f"{only.task}-routed"
            case _:
                return "shared"


@dataclasses.dataclass(frozen=True)
class TaskPath:
    """One task's way through all layers.

    Attributes:
      route: how it passes each routed layer, but for the keep ratio.
      keep_ratios: layer -> keep ratio; the task runs densely in layers not named.
    """

    route: Route
    keep_ratios: Mapping[int, float]


def plan_layers(num_layers: int, paths: Sequence[TaskPath]) -> LayerPlan:
    """The plan in which each task takes its path.

    Raises:
      ValueError: for a routed layer that does not exist, a task with two paths, or a
        keep ratio that is no share.
    """
    tasks = [path.route.task for path in paths]
    if repeated := sorted({task for task in tasks if tasks.count(task) > 1}):
        raise ValueError(
            f"tasks {repeated} have more than one path; give each task one path that "
            f"names all of its layers."
        )
    named = {layer for path in paths for layer in path.keep_ratios}
    if missing := sorted(named - set(range(num_layers))):
        raise ValueError(
            f"layers {missing} cannot be routed: the model has layers "
            f"0 to {num_layers - 1}."
        )
    return tuple(
        LayerSpec(
            tuple(
                dataclasses.replace(path.route, keep_ratio=path.keep_ratios[layer])
                for path in paths
                if layer in path.keep_ratios
            )
        )
        for layer in range(num_layers)
    )


def last_half(num_layers: int) -> tuple[int, ...]:
    """The layers UniMoD converts in Show-o and Emu3 (2502.06474, section 5.1)."""
    return tuple(range(num_layers - num_layers // 2, num_layers))


def every_other_layer(num_layers: int) -> tuple[int, ...]:
    """The layers Mixture-of-Depths routes (2404.02258, section 3): the odd ones."""
    return tuple(range(1, num_layers, 2))


def runs[Item](items: Sequence[Item]) -> tuple[tuple[Item, int], ...]:
    """Maximal runs of equal items, such as layers of a plan, as (item, length)."""
    return tuple((item, len(list(group))) for item, group in itertools.groupby(items))
