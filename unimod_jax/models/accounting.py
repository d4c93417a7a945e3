"""Parameters and FLOPs of a model, counted from its spec and its layouts.

Counted are matrix products, two FLOPs per multiply-add: linear maps, attention over all
pairs of a row's tokens (as a dense mask computes it), routers and heads. Norms,
activations, softmax and embedding look-ups are not. A routed layer is charged for its
static capacity. Papers count less, and differ in what, so there are four conventions:

    linear_only     the layers' linear maps and routers (what UniMoD's figures count)
    with_attention  and scores and values of attention
    with_head       and the vocabulary head where targets may stand, and patches
    valid_tokens    the same for typical rows, in which empty text slots cost nothing
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from unimod_jax import mod
from unimod_jax.layout import (
    TEXT,
    RowLayout,
    TaskLayout,
    TokenGroup,
    TokenStream,
)
from unimod_jax.models.config import ModelConfig
from unimod_jax.models.parameter_path import (
    Path,
    component_and_tower,
    is_embedding,
    layered,
)
from unimod_jax.models.unified import ModelSpec, UnifiedModel

CONVENTIONS = ("linear_only", "with_attention", "with_head", "valid_tokens")

TRAINING_OVER_FORWARD = 3
"""Backward costs twice the forward; recomputation is not counted as useful work."""


# --- Parameters -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ParameterCounts:
    """How many parameters a model has.

    Attributes:
      total: all of them.
      activated: those that one token meets: one tower of each component and one
        expert's worth of a tower of experts, averaged over towers.
      embedding: of them, in the vocabulary table, the head and image positions.
      towers: tower -> how many it has; "shared" is the tower of what is tied.
    """

    total: int
    activated: int
    embedding: int
    towers: dict[str, int]


def count_parameters(params: object) -> int:
    """Number of scalars in a parameter tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def parameters(spec: ModelSpec, layouts: Mapping[str, RowLayout]) -> ParameterCounts:
    """Counts the parameters of the real model from their shapes; takes no memory.

    Args:
      spec: the model.
      layouts: task -> layout of all tasks; a layer that all of them skip has none.
    """
    shapes = _parameter_shapes(spec, layouts)
    sizes = {path: count_parameters(leaf) for path, leaf in shapes.items()}
    towers: dict[str, int] = {}
    of_component: dict[Path, dict[str, float]] = {}
    for path, size in sizes.items():
        component, tower = component_and_tower(path)
        if tower is None:
            continue
        towers[tower] = towers.get(tower, 0) + size
        shares = of_component.setdefault(component, {})
        shares[tower] = shares.get(tower, 0.0) + size / _experts_of(path, spec)
    activated = sum(sizes.values()) - sum(towers.values())
    activated += sum(
        sum(shares.values()) / len(shares) for shares in of_component.values()
    )
    return ParameterCounts(
        total=sum(sizes.values()),
        activated=round(activated),
        embedding=sum(size for path, size in sizes.items() if is_embedding(path)),
        towers=towers,
    )


def _parameter_shapes(
    spec: ModelSpec, layouts: Mapping[str, RowLayout]
) -> dict[Path, Any]:
    """The parameters of a model by name, as shapes."""
    num_rows = spec.towers.rows_per_expert_group
    batch = {
        task: abstract_rows(spec, layout, num_rows) for task, layout in layouts.items()
    }

    def initialise(batch: dict[str, TokenGroup]) -> dict:
        variables = nn.unbox(UnifiedModel(spec).init(jax.random.key(0), batch))
        return layered(variables["params"], spec.designs)

    return jax.eval_shape(initialise, batch)


def abstract_rows(spec: ModelSpec, layout: RowLayout, num_rows: int = 1) -> TokenGroup:
    """Rows of a layout, as shapes: enough to trace or compile a model.

    Args:
      spec: the model, for the size of patches.
      layout: of the rows; its streams are the model's.
      num_rows: B.

    Returns:
      A group of `jax.ShapeDtypeStruct`s.
    """

    # Any: the fields are typed as jax.Array, and hold shapes here.
    def shape(*sizes: int, dtype: jax.typing.DTypeLike = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((num_rows, *sizes), dtype)

    def stream(num_tokens: int) -> TokenStream:
        ids = shape(num_tokens, dtype=jnp.int32)
        fields = dataclasses.fields(TokenStream)
        return TokenStream(**{field.name: ids for field in fields})

    return TokenGroup(
        streams={name: stream(layout.num_tokens(name)) for name in layout.stream_names},
        patch_BNP=shape(layout.num_patches, spec.patch_size),
        patch_time_BN=shape(layout.num_patches),
        largest_time_BN=shape(layout.num_patches),
        layout=layout,
    )


def _experts_of(path: Path, spec: ModelSpec) -> int:
    """By how many experts a parameter is shared out; 1 for all but experts' weights."""
    if "feed_forward" not in path or path[-1] == "router":
        return 1
    is_expert = path[path.index("feed_forward") + 1] in spec.towers.expert_towers
    return spec.towers.num_experts if is_expert else 1


# --- FLOPs ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RowFlops:
    """FLOPs of one row, forward only.

    Attributes:
      linear: of the layers' linear maps and of what chooses tokens.
      attention: of scores and values over all pairs of tokens.
      head: of the vocabulary head, and of the maps of patches in and out.
    """

    linear: int
    attention: int
    head: int

    @property
    def total(self) -> int:
        """Everything that is counted."""
        return self.linear + self.attention + self.head


def forward_flops(
    spec: ModelSpec, layout: RowLayout, typical_text_tokens: int
) -> dict[str, int]:
    """FLOPs of one row of a task, forward only, under each of `CONVENTIONS`.

    Args:
      spec: the model.
      layout: of the row.
      typical_text_tokens: how many text tokens a typical row of one image has.
    """
    full = row_flops(spec, layout)
    valid = row_flops(spec, typical_row(layout, typical_text_tokens))
    return {
        "linear_only": full.linear,
        "with_attention": full.linear + full.attention,
        "with_head": full.total,
        "valid_tokens": valid.total,
    }


def row_forward_flops(spec: ModelSpec, layout: RowLayout) -> int:
    """FLOPs of one row through the whole model, forward only: `with_head`."""
    return row_flops(spec, layout).total


def training_flops(
    spec: ModelSpec, layouts: Mapping[str, RowLayout], rows: Mapping[str, int]
) -> int:
    """FLOPs of one training step over all task groups, as `with_head` counts them.

    Args:
      spec: the model.
      layouts: task -> layout.
      rows: task -> rows per step.
    """
    return TRAINING_OVER_FORWARD * sum(
        rows[task] * row_forward_flops(spec, layout) for task, layout in layouts.items()
    )


def typical_row(layout: RowLayout, typical_text_tokens: int) -> RowLayout:
    """The layout without the slots that a typical row leaves empty.

    Stretches of text longer than a marker hold the typical number; packed rows have no
    empty slots.
    """
    if not isinstance(layout, TaskLayout):
        return layout
    segments = tuple(
        dataclasses.replace(segment, num_slots=typical_text_tokens)
        if segment.modality == TEXT and segment.num_slots > max(1, typical_text_tokens)
        else segment
        for segment in layout.segments
    )
    return dataclasses.replace(layout, segments=segments)


def row_flops(spec: ModelSpec, layout: RowLayout) -> RowFlops:
    """FLOPs of one row through the whole model, forward only.

    Args:
      spec: the model.
      layout: of the row, all of whose slots are charged for; its streams are the
        model's. A routed layer keeps ceil(keep ratio * slots) of each stream.
    """
    c = spec.config
    tokens = {name: layout.num_tokens(name) for name in layout.stream_names}
    linear = attention = 0
    for design in spec.designs:
        route = design.route_of(layout.task)
        if route is not None and route.skips_layer:
            continue
        kept = dict(tokens)
        if route is not None:
            choosing = _choice_flops(c, route, sum(tokens.values()))
            linear += choosing.linear
            attention += choosing.attention
            kept = {
                name: mod.capacity(route.keep_ratio_of(name), count) if count else 0
                for name, count in tokens.items()
            }
        towers = design.untying.towers_of("feed_forward", spec.streams)
        for name, count in kept.items():
            linear += 2 * count * _layer_weights(spec, towers[name])
        attention += 4 * c.num_heads * c.head_dim * sum(kept.values()) ** 2
    return RowFlops(linear, attention, _head_flops(spec, layout))


def _layer_weights(spec: ModelSpec, tower: str) -> int:
    """Multiply-adds of one token in one layer's linear maps.

    Experts take 1 / experts of the tokens each, so they cost what one network costs,
    and the scores and the weighted sum of what they say.
    """
    c, experts = spec.config, spec.towers.num_experts
    attention = 2 * c.width * (c.num_heads + c.num_kv_heads) * c.head_dim
    matrices = 3 if c.feed_forward == "swiglu" else 2
    weights = attention + matrices * c.width * c.hidden
    return weights + 2 * c.width * experts * (tower in spec.towers.expert_towers)


def _choice_flops(c: ModelConfig, route: mod.Route, num_tokens: int) -> RowFlops:
    """What choosing tokens costs, before the layer runs on those that are kept."""
    heads_width = c.num_heads * c.head_dim
    linear = attention = 0
    if route.scorer == "linear":
        linear += 2 * c.width * num_tokens
    if route.scorer == "attention":
        linear += 2 * c.width * (heads_width + c.num_kv_heads * c.head_dim) * num_tokens
        attention += 2 * heads_width * num_tokens**2
    if route.causal_rule == "predictor":
        linear += 2 * _predictor_weights(c.width) * num_tokens
    return RowFlops(linear, attention, 0)


@functools.cache
def _predictor_weights(width: int) -> int:
    """Parameters of a membership predictor: two maps, and biases that hardly count."""
    predictor = mod.MembershipPredictor(("any",), width)
    token = {"any": jax.ShapeDtypeStruct((1, 1, width), jnp.float32)}
    return count_parameters(jax.eval_shape(predictor.init, jax.random.key(0), token))


def _head_flops(spec: ModelSpec, layout: RowLayout) -> int:
    """The heads that read a row, and the map that its patches enter by.

    The vocabulary head reads the slots that may have a target, as the loss does.
    """
    predicting = holding = 0
    for name in layout.stream_names:
        slots = layout.predicting_slots(name)
        predicting += slots.stop - slots.start
        holding += layout.num_tokens(name) * layout.holds_patches(name)
    patches = spec.patch_size * (layout.num_patches + holding)
    return 2 * spec.config.width * (spec.vocabulary_size * predicting + patches)
