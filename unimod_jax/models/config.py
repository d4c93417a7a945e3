"""What a user chooses about a model: its architecture, what is untied, what is routed.

Three small frozen dataclasses, one per idea, and the functions that turn the two
papers' choices into data: one untying map and one layer spec per layer.
"""

import dataclasses
from typing import Literal

from unimod_jax import mod, mot
from unimod_jax.layout import IMAGE, TEXT


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture of the transformer; the defaults are those of the toys.

    Attributes:
      width: D.
      num_layers: how many blocks.
      num_heads: H.
      num_kv_heads: G, dividing H.
      head_dim: E, even.
      feed_forward: "swiglu" (Llama) or "gelu" (Phi).
      feed_forward_hidden: F; 0 follows Llama's rule (`mot.swiglu_width`).
      norm: "rms" or "layer" (with a bias).
      norm_order: "pre", "swin" (after each branch, before it is added) or "parallel"
        (Phi: attention and feed-forward side by side behind one norm).
      qk_norm: of queries and keys, per head, before rotary: "none", "rms", "layer", or
        "layer_per_head" (weights of its own for each head).
      norm_epsilon: of every norm.
      biases: whether projections, feed-forward and head have biases (Phi).
      tied_head: whether the vocabulary head is the embedding table.
      rotary_theta: base of the rotary wavelengths, in tokens.
      rotary_share: share of each head's dimensions that turn (Phi: half).
      attention_dropout: of attention probabilities.
      residual_dropout: of what attention and feed-forward add.
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

    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 32
    feed_forward: Literal["swiglu", "gelu"] = "swiglu"
    feed_forward_hidden: int = 0
    norm: Literal["rms", "layer"] = "rms"
    norm_order: Literal["pre", "swin", "parallel"] = "pre"
    qk_norm: Literal["none", "rms", "layer", "layer_per_head"] = "rms"
    norm_epsilon: float = 1e-5
    biases: bool = False
    tied_head: bool = False
    rotary_theta: float = 10_000.0
    rotary_share: float = 1.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    embedding_dropout: float = 0.0
    vocabulary_size: int = 0
    image_positions: bool = True
    compute_dtype: str = "float32"
    remat: Literal["all", "all_but_results", "nothing"] = "all_but_results"
    remat_above: float = 0.25
    modalities: tuple[str, ...] = (TEXT, IMAGE)

    def __post_init__(self) -> None:
        """Checks what the layers below rely on."""
        if self.num_layers < 1:
            raise ValueError(
                f"num_layers is {self.num_layers}, but a model has at least one layer."
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
                f"{self.num_kv_heads}; each key head serves equally many query heads."
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
        for name in ("attention_dropout", "residual_dropout", "embedding_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; give a share in [0, 1)."
                )

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
    def hidden(self) -> int:
        """F, as given or by Llama's rule."""
        return self.feed_forward_hidden or mot.swiglu_width(self.width)

    def block_config(self, towers: "MixtureOfTransformers") -> mot.BlockConfig:
        """What each block is made of."""
        return mot.BlockConfig(
            width=self.width,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            feed_forward=self.feed_forward,
            feed_forward_hidden=self.hidden,
            norm=self.norm,
            norm_order=self.norm_order,
            qk_norm=self.qk_norm,
            norm_epsilon=self.norm_epsilon,
            biases=self.biases,
            attention_dropout=self.attention_dropout,
            residual_dropout=self.residual_dropout,
            residual_scale=1.0 / (2 * self.num_layers),
            num_experts=towers.num_experts,
            expert_towers=towers.expert_towers,
            rows_per_expert_group=towers.rows_per_expert_group,
        )


@dataclasses.dataclass(frozen=True)
class MixtureOfTransformers:
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
      expert_towers: feed-forward towers made of experts with expert choice; "shared"
        of a dense model is MoE-4x, "text" of an untied one is the hybrid.
      num_experts: experts of each of those towers.
      rows_per_expert_group: rows whose tokens compete for an expert's places.
    """

    untied_components: tuple[str, ...] = mot.COMPONENTS
    untied_layers: tuple[int, ...] | str = "all"
    tower_groups: tuple[tuple[str, ...], ...] = ()
    initial_towers: Literal["independent", "copies"] = "independent"
    expert_towers: tuple[str, ...] = ()
    num_experts: int = 4
    rows_per_expert_group: int = 1

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
class TaskDepth:
    """How one task is routed where it differs from the others.

    Attributes:
      task: the task group's name.
      routed_layers: as of `MixtureOfDepths`.
      keep_ratio: of its first routed layer.
      final_keep_ratio: of its last routed layer; None keeps the ratio constant.
      schedule: how the ratio runs from the first to the last.
      levels: as of `MixtureOfDepths`.
    """

    task: str
    routed_layers: tuple[int, ...] | str = "last_half"
    keep_ratio: float = 0.4
    final_keep_ratio: float | None = None
    schedule: Literal["linear", "cosine"] = "linear"
    levels: int = 0


@dataclasses.dataclass(frozen=True)
class MixtureOfDepths:
    """Which layers route which tasks (2502.06474), and how.

    Attributes:
      routed_layers: layer indices, or "last_half", "every_other" or "none".
      tasks: the routed tasks; a task not named runs densely.
      keep_ratio: share of a stream's tokens that the first routed layer keeps; 0 skips
        the layer.
      final_keep_ratio: share that the last routed layer keeps; None: the same.
      schedule: how the share runs from the first routed layer to the last.
      levels: how many different shares a schedule has at most: neighbouring layers take
        their mean, so that as many tokens are kept and fewer capacities compiled; 0:
        every layer has its own.
      text_keep_ratio: the share of a text stream of its own; 0 uses `keep_ratio`.
      task_depths: tasks that are routed in a way of their own.
      single_router: one router for all tasks (Mixture-of-Depths) instead of one each.
      scorer: what ranks tokens: a learned "linear" router, "random", or the
        "attention" they receive.
      score_weight: how the score weighs the layer's delta (`mod.SCORE_WEIGHTS`).
      causal_rule: how tokens of causal rows are chosen (`mod.TokenChoice`).
      auxiliary_weight: of the loss that trains the decode-time rule (gamma-MoD: 0.01).
    """

    routed_layers: tuple[int, ...] | str = "last_half"
    tasks: tuple[str, ...] = ("text_to_image", "image_to_text")
    keep_ratio: float = 0.4
    final_keep_ratio: float | None = None
    schedule: Literal["linear", "cosine"] = "linear"
    levels: int = 0
    text_keep_ratio: float = 0.0
    task_depths: tuple[TaskDepth, ...] = ()
    single_router: bool = False
    scorer: Literal["linear", "random", "attention"] = "linear"
    score_weight: Literal["gentle", "sigmoid", "raw", "one"] = "gentle"
    causal_rule: Literal[
        "following_threshold", "trained_threshold", "predictor", "top_k"
    ] = "following_threshold"
    auxiliary_weight: float = 0.01

    def layer_plan(self, num_layers: int) -> mod.LayerPlan:
        """The plan of a model with this many layers; ValueError for unknown names."""
        own = {depth.task: depth for depth in self.task_depths}
        common = {
            task: TaskDepth(
                task,
                self.routed_layers,
                self.keep_ratio,
                self.final_keep_ratio,
                self.schedule,
                self.levels,
            )
            for task in self.tasks
        }
        paths = [self._path(depth, num_layers) for depth in (common | own).values()]
        return mod.plan_layers(num_layers, paths)

    def _path(self, depth: TaskDepth, num_layers: int) -> mod.TaskPath:
        layers = _layers(depth.routed_layers, num_layers)
        ratios = mod.keep_ratios(
            depth.schedule,
            len(layers),
            depth.keep_ratio,
            depth.final_keep_ratio,
            depth.levels,
        )
        text = self.text_keep_ratio
        route = mod.Route(
            depth.task,
            depth.keep_ratio,
            stream_keep_ratios=((TEXT, text),) if text else (),
            router="single" if self.single_router else "",
            scorer=self.scorer,
            score_weight=self.score_weight,
            causal_rule=self.causal_rule,
        )
        return mod.TaskPath(route, dict(zip(layers, ratios, strict=True)))


def _layers(layers: tuple[int, ...] | str, num_layers: int) -> tuple[int, ...]:
    """Layer indices of a choice by name."""
    if not isinstance(layers, str):
        return layers
    named = {
        "none": (),
        "last_half": mod.last_half(num_layers),
        "every_other": mod.every_other_layer(num_layers),
    }
    if layers not in named:
        raise ValueError(
            f"routed_layers {layers!r} is not known; give layer indices or one of "
            f"{sorted(named)}."
        )
    return named[layers]


DENSE = (MixtureOfTransformers(()), MixtureOfDepths("none", ()))
"""The dense twin of any model: one tower, no routing."""
