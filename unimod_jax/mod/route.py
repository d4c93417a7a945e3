"""A route: how one task passes through one layer that routes it.

One router name for all tasks is Basic MoD (2502.06474, table 5); otherwise each task
has a router of its own in each layer.
"""

import dataclasses
from typing import Literal, get_args

from unimod_jax.mod.capacity import capacity

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
    def without_ratio(self) -> "Route":
        """The route with every token kept; a task that skips the layer still does.

        Routes that are equal without their ratios have the same parameters: those of
        a ramp, for one.
        """
        if self.skips_layer:
            return self
        return dataclasses.replace(self, keep_ratio=1.0)

    @property
    def skips_layer(self) -> bool:
        """Whether the task passes the layer by: nothing is kept, nothing is run."""
        return self.keep_ratio == 0.0

    def keep_ratio_of(self, stream: str) -> float:
        """The keep ratio of one stream."""
        return dict(self.stream_keep_ratios).get(stream, self.keep_ratio)
