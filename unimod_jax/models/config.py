"""What a user chooses about a model: its architecture, what is untied, what is routed.

Three small frozen dataclasses, one per idea, and the functions that turn the two
papers' choices into data: one untying map and some routes per layer.
"""

import dataclasses
from typing import Literal

from unimod_jax import mod, mot
from unimod_jax.layout import IMAGE, TEXT


@dataclasses.dataclass(frozen=True)
class ModelConfig(mot.BlockConfig):
    """The architecture of the transformer: that of its blocks, and what is around them.

    Attributes:
      num_layers: how many blocks.
      tied_head: whether the vocabulary head is the embedding table; with `biases` it
        has one of its own too.
      rotary_theta: base of the rotary wavelengths, in tokens.
      rotary_share: share of each head's dimensions that turn (Phi: half).
      embedding_dropout: of embedded tokens.
      vocabulary_size: V; 0 takes as many ids as the data needs.
      image_positions: whether image tokens add a learned embedding of their raster
        position; rotary positions alone leave a pixel to count its neighbours.
      compute_dtype: dtype of activations; parameters and statistics stay float32.
      remat: what of each layer the backward pass computes again, to save memory:
        "all", "all_but_results" (what attention and what a routed layer say is kept,
        [B, T, D] a layer each), or "nothing".
      remat_above: nothing is computed again of layers in which every task keeps at most
        this share of its tokens; what they store is small.
      modalities: what tokens can be.
    """

    num_layers: int = 4
    tied_head: bool = False
    rotary_theta: float = 10_000.0
    rotary_share: float = 1.0
    embedding_dropout: float = 0.0
    vocabulary_size: int = 0
    image_positions: bool = True
    compute_dtype: str = "float32"
    remat: Literal["all", "all_but_results", "nothing"] = "all_but_results"
    remat_above: float = 0.25
    modalities: tuple[str, ...] = (TEXT, IMAGE)

    def __post_init__(self) -> None:
        """Checks what the layers below rely on."""
        super().__post_init__()
        if self.num_layers < 1:
            raise ValueError(
                f"num_layers is {self.num_layers}, but a model has at least one layer."
            )
        if self.head_dim % 2 or self.rotated_dim % 2 or not 0 < self.rotary_share <= 1:
            raise ValueError(
                f"rotary positions turn pairs, but rotary_share {self.rotary_share} of "
                f"head_dim {self.head_dim} is {self.rotated_dim}; make both even."
            )
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"compute_dtype {self.compute_dtype!r} is not supported; choose "
                f"'float32' or 'bfloat16'."
            )
        mot.check_dropped("embedding_dropout", self.embedding_dropout)

    @property
    def rotated_dim(self) -> int:
        """Dimensions of each head that rotary positions turn."""
        return round(self.rotary_share * self.head_dim)

    @property
    def has_dropout(self) -> bool:
        """Whether training needs a random key for dropout."""
        return (
            max(self.attention_dropout, self.residual_dropout, self.embedding_dropout)
            > 0.0
        )

    @property
    def residual_scale(self) -> float:
        """Keeps the variance of the residual stream independent of depth (GPT-2)."""
        return 1.0 / (2 * self.num_layers)


@dataclasses.dataclass(frozen=True)
class MixtureOfTransformers(mot.Experts):
    """What is untied by modality (2411.04996), and which towers hold experts.

    No untied components is the dense model.

    Attributes:
      untied_components: any of `mot.COMPONENTS`.
      untied_layers: the layers that untie them, or "all". The final norm follows the
        components alone.
      tower_groups: modalities that share towers, such as (("text",), ("image",
        "speech")) of the leave-one-modality-out study; none gives each its own.
      initial_towers: whether a component's towers start from draws of their own or as
        copies of one draw.
    """

    untied_components: tuple[str, ...] = mot.COMPONENTS
    untied_layers: tuple[int, ...] | str = "all"
    tower_groups: tuple[tuple[str, ...], ...] = ()
    initial_towers: Literal["independent", "copies"] = "independent"

    def untying_map(self, modalities: tuple[str, ...]) -> mot.UntyingMap:
        """The untying map of an untied layer, and of the final norm."""
        groups = self.tower_groups or tuple((name,) for name in modalities)
        return mot.UntyingMap.grouped(modalities, groups, self.untied_components)

    def untying_maps(
        self, modalities: tuple[str, ...], num_layers: int
    ) -> tuple[mot.UntyingMap, ...]:
        """The untying map of each layer; ValueError for a layer that does not exist."""
        untied, tied = self.untying_map(modalities), mot.UntyingMap.tied(modalities)
        layers = self.untied_layers
        if isinstance(layers, str):
            if layers != "all":
                raise ValueError(
                    f"untied_layers {layers!r} is not known; give layer indices or "
                    f"'all'."
                )
            layers = tuple(range(num_layers))
        if missing := sorted(set(layers) - set(range(num_layers))):
            raise ValueError(
                f"layers {missing} cannot be untied: the model has layers 0 to "
                f"{num_layers - 1}."
            )
        return tuple(untied if n in layers else tied for n in range(num_layers))


@dataclasses.dataclass(frozen=True)
class MixtureOfDepths:
    """Which tasks are routed in which layers (2502.06474), and how.

    Attributes:
      plan: the keep ratios of each routed task in each layer; a task without them runs
        densely, and no task at all is the dense model. On a command line: a file, or
        the short form of a function that makes one (`mod.plan_from`).
      text_keep_ratio: the share of a text stream of its own, in every layer that is
        routed and not skipped; 0 uses the plan's.
      single_router: one router for all tasks (Mixture-of-Depths) instead of one each.
      scorer: what ranks tokens: a learned "linear" router, "random", or the
        "attention" they receive.
      score_weight: how the score weighs the layer's delta (`mod.SCORE_WEIGHTS`).
      causal_rule: how tokens of causal rows are chosen (`mod.TokenChoice`).
      auxiliary_weight: of the loss that trains the decode-time rule (gamma-MoD: 0.01).
    """

    plan: tuple[mod.TaskPlan, ...] = ()
    text_keep_ratio: float = 0.0
    single_router: bool = False
    scorer: Literal["linear", "random", "attention"] = "linear"
    score_weight: Literal["gentle", "sigmoid", "raw", "one"] = "gentle"
    causal_rule: Literal[
        "following_threshold", "trained_threshold", "predictor", "top_k"
    ] = "following_threshold"
    auxiliary_weight: float = 0.01

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the plan names."""
        return tuple(of_task.task for of_task in self.plan)

    def with_ratios(self, ratios: mod.LayerRatios) -> "MixtureOfDepths":
        """The same tasks, all with these keep ratios."""
        return dataclasses.replace(self, plan=mod.same_for(self.tasks, ratios))

    def at_depth(self, num_layers: int) -> "MixtureOfDepths":
        """The same for a model of so many layers (`mod.resampled`)."""
        plan = mod.resampled_plan(self.plan, num_layers)
        return dataclasses.replace(self, plan=plan)

    def routes(self, num_layers: int) -> tuple[tuple[mod.Route, ...], ...]:
        """Each layer's routes, of the tasks that it routes.

        Raises:
          ValueError: for a plan of another depth, or settings that do not go together.
        """
        mod.check_plan(self.plan, num_layers)
        return tuple(
            tuple(
                self._route(of_task.task, ratio)
                for of_task in self.plan
                if (ratio := of_task.keep_ratios[layer]) is not None
            )
            for layer in range(num_layers)
        )

    def _route(self, task: str, keep_ratio: float) -> mod.Route:
        text = self.text_keep_ratio
        return mod.Route(
            task,
            keep_ratio,
            stream_keep_ratios=((TEXT, text),) if text else (),
            router="single" if self.single_router else "",
            scorer=self.scorer,
            score_weight=self.score_weight,
            causal_rule=self.causal_rule,
        )


DENSE = (MixtureOfTransformers(()), MixtureOfDepths())
"""The dense twin of any model: one tower, no routing."""
