"""Parameters and FLOPs of a model, counted from its spec and its layouts.

Counted: every matrix product of the layers, attention over all key pairs (as executed
by a dense mask), routers and heads. Not counted: norms, activations, softmax and
embedding look-ups. A routed layer is charged for its static capacity, not for what was
asked.
"""

from collections.abc import Mapping

import jax
import numpy as np

from unimod_jax import mod
from unimod_jax.layout import TaskLayout
from unimod_jax.models.unified import ModelSpec

TRAINING_OVER_FORWARD = 3
"""Backward costs twice the forward; recomputation is not counted as useful work."""


def count_parameters(params: object) -> int:
    """Number of scalars in a parameter tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def layer_forward_flops(spec: ModelSpec, num_tokens: int) -> int:
    """FLOPs of one block on one row of that many tokens (2 per multiply-add)."""
    block = spec.config.block_config()
    attention_width = block.num_heads * block.head_dim
    kv_width = block.num_kv_heads * block.head_dim
    projections = block.width * (2 * attention_width + 2 * kv_width)
    feed_forward = 3 * block.width * block.feed_forward_hidden
    scores_and_values = 2 * num_tokens * attention_width
    return 2 * num_tokens * (projections + feed_forward + scores_and_values)


def row_forward_flops(spec: ModelSpec, layout: TaskLayout) -> int:
    """FLOPs of one row of a task through the whole model, forward only."""
    total = 0
    for layer in spec.plan:
        route = layer.route_of(layout.task)
        kept = layout.row_length
        if route is not None:
            kept = sum(
                mod.capacity(route.keep_ratio_of(name), layout.num_tokens(name))
                for name in layout.stream_names
            )
            total += 2 * spec.config.width * layout.row_length
        total += layer_forward_flops(spec, kept)
    predicting = sum(
        layout.num_tokens(name) for name in layout.stream_names if layout.predicts(name)
    )
    total += 2 * spec.config.width * spec.vocabulary_size * predicting
    total += 4 * spec.config.width * spec.patch_size * layout.num_patches
    return total


def training_flops(
    spec: ModelSpec, layouts: Mapping[str, TaskLayout], rows: Mapping[str, int]
) -> int:
    """FLOPs of one training step over all task groups.

    Args:
      spec: the model.
      layouts: task -> layout.
      rows: task -> rows per step.
    """
    return TRAINING_OVER_FORWARD * sum(
        rows[task] * row_forward_flops(spec, layout) for task, layout in layouts.items()
    )
