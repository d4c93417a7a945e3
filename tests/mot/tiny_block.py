"""Blocks of width 16, the geometry of a few tokens, and parameters drawn for them."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from unimod_jax.layout import IMAGE, TEXT, AttentionGeometry, rotary_phase
from unimod_jax.mot import (
    NO_EXPERTS,
    BlockConfig,
    Experts,
    TransformerBlock,
    UntyingMap,
    common_streams,
)

HEAD_DIM = 8
THETA = 100.0
SIZES = {
    "width": 16,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": HEAD_DIM,
    "feed_forward_hidden": 24,
}
UNTIED = UntyingMap.untied((TEXT, IMAGE))
# Two text tokens, an image of three that sees itself, one text token; one empty slot.
POSITION = {TEXT: [0, 1, -1, 5], IMAGE: [2, 3, 4]}
WINDOW_END = {TEXT: [1, 2, 0, 6], IMAGE: [5, 5, 5]}


QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0}
"""Compiler options for programs that run once."""


def tiny_block(
    untying: UntyingMap = UNTIED, experts: Experts = NO_EXPERTS, **config
) -> TransformerBlock:
    """A block whose storage serves its own map."""
    streams = common_streams([untying])
    return TransformerBlock(BlockConfig(**(SIZES | config)), untying, streams, experts)


def geometry_of(position_BT, window_end_BT, rotated_dim=HEAD_DIM):
    """Windows from position 0 on."""
    position_BT = jnp.asarray(position_BT, jnp.int32)
    return AttentionGeometry(
        position_BT,
        jnp.zeros_like(position_BT),
        jnp.asarray(window_end_BT, jnp.int32),
        rotary_phase(position_BT, rotated_dim, THETA),
    )


def causal_geometry(position_BT):
    """Each token sees itself and what is before it; -1 is an empty slot."""
    return geometry_of(position_BT, np.asarray(position_BT) + 1)


def one_row_geometry(rotated_dim=HEAD_DIM):
    """The row of `POSITION`."""
    return {
        name: geometry_of([POSITION[name]], [WINDOW_END[name]], rotated_dim)
        for name in POSITION
    }


def random_streams(geometry, seed=0):
    """Hidden states for the slots of a geometry."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=(*where.position_BT.shape, 16)), jnp.float32)
        for name, where in geometry.items()
    }


def abstract_params(block, streams, geometry):
    """Shapes of the parameters, in boxes that carry logical axes."""
    return jax.eval_shape(block.init, jax.random.key(0), streams, geometry)["params"]


def random_params(block, streams, geometry, seed=1):
    """Parameters in which nothing is at its special initial value."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        name = path[-1].key
        centre, spread = (1.0, 0.2) if name == "scale" else (0.0, 0.25)
        return jnp.asarray(centre + spread * values, jnp.float32)

    shapes = nn.unbox(abstract_params(block, streams, geometry))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def delta_of(block, params, streams, geometry, **keywords):
    """What the block adds, without a cache."""
    delta, cache = block.apply({"params": params}, streams, geometry, **keywords)
    assert cache is None
    return delta


def flat(tree: dict) -> dict:
    """Leaves by path, such as "query/text/kernel"."""
    return flax.traverse_util.flatten_dict(tree, sep="/")


def in_towers(dense: dict, like: dict) -> dict:
    """The parameters of a tied block in every tower of the abstract tree `like`."""

    def copy(path, leaf):
        component, _, *rest = (key.key for key in path)
        source = flat(dense)["/".join((component, "shared", *rest))]
        assert source.shape == leaf.shape
        return source

    return jax.tree_util.tree_map_with_path(copy, nn.unbox(like))
