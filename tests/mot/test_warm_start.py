"""Towers as copies: every component, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.mot.tiny_block import (
    abstract_params,
    flat,
    one_row_geometry,
    random_params,
    random_streams,
    tiny_block,
)
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.mot import Experts, Towers, copy_towers
from unimod_jax.mot.warm_start import TOWER_MODULES

GEOMETRY = one_row_geometry()
STREAMS = random_streams(GEOMETRY)


def initial(block):
    return random_params(block, STREAMS, GEOMETRY)


@pytest.mark.parametrize("norm_order", ["pre", "swin", "parallel"])
def test_all_towers_of_a_block_are_known_by_their_names(norm_order):
    modules = set()

    def note(call, args, kwargs, context):
        if isinstance(context.module, Towers):
            modules.add(context.module.name)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        params = abstract_params(tiny_block(norm_order=norm_order), STREAMS, GEOMETRY)
    assert modules == params.keys()
    assert modules <= set(TOWER_MODULES)
    if norm_order == "pre":
        assert modules == set(TOWER_MODULES) - {"final_norm"}


def test_every_tower_becomes_the_first():
    params = initial(tiny_block(biases=True))
    copied = copy_towers(params)
    assert jax.tree.structure(copied) == jax.tree.structure(params)
    before, after = flat(params), flat(copied)
    for path, leaf in after.items():
        first = path.replace(f"/{TEXT}/", f"/{IMAGE}/")
        np.testing.assert_array_equal(leaf, before[first])
    assert np.any(before["query/text/kernel"] != after["query/text/kernel"])


def test_copies_are_arrays_of_their_own():
    leaves = jax.tree.leaves(copy_towers(initial(tiny_block())))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_components_are_found_at_any_depth_and_nothing_else_is_touched():
    random = np.random.default_rng(0).normal

    def towers(*names, stacked=()):
        return {
            name: {"kernel": jnp.asarray(random(size=(*stacked, 2, 3)))}
            for name in names
        }

    params = {
        "transformer": {
            "run_0": {"block": {"query": towers(TEXT, IMAGE, stacked=(4,))}},
            "run_1": {"block": {"query": towers("text+image", "speech")}},
        },
        "final_norm": towers(IMAGE, TEXT),
        # A module of that name that holds parameters, not towers.
        "output": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)},
        "heads": towers(TEXT, IMAGE),
    }
    copied = copy_towers(params)
    runs = copied["transformer"]
    for towers_now in (
        runs["run_0"]["block"]["query"],
        runs["run_1"]["block"]["query"],
        copied["final_norm"],
    ):
        one, other = towers_now.values()
        np.testing.assert_array_equal(one["kernel"], other["kernel"])
    stacked = params["transformer"]["run_0"]["block"]["query"][IMAGE]["kernel"]
    np.testing.assert_array_equal(
        runs["run_0"]["block"]["query"][TEXT]["kernel"], stacked
    )
    for untouched in ("output", "heads"):
        jax.tree.map(
            np.testing.assert_array_equal, copied[untouched], params[untouched]
        )


def test_boxes_stay_on():
    boxed = abstract_params(tiny_block(), STREAMS, GEOMETRY)
    copied = jax.eval_shape(copy_towers, boxed)
    assert copied["query"][TEXT]["kernel"].names == ("embed", "heads")
    assert jax.tree.structure(copied) == jax.tree.structure(boxed)


def test_towers_built_differently_cannot_be_copies():
    params = initial(tiny_block(experts=Experts(expert_towers=(TEXT,))))
    with pytest.raises(ValueError, match=r"'image' and 'text' of 'feed_forward' diff"):
        copy_towers(params)
