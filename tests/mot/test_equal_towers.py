"""All towers equal = the dense block, whatever the modalities and their storage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.mot.tiny_block import (
    QUICK_TO_COMPILE,
    abstract_params,
    causal_geometry,
    delta_of,
    flat,
    in_towers,
    random_params,
    tiny_block,
)
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.mot import UntyingMap

THREE = (TEXT, IMAGE, "speech")
# The modality of each position, two rows.
MODALITY = np.array([[0, 0, 1, 1, 2, 0, 1, 2, 2, 0], [1, 1, 1, 0, 0, 0, 1, 0, 0, 1]])
MAPS = {
    "query only": UntyingMap.untied(THREE, ("query",)),
    "all": UntyingMap.untied(THREE),
    "image and speech together": UntyingMap.grouped(THREE, [[TEXT], THREE[1:]]),
}
CONFIGS = {
    "pre": {},
    "swin": {"norm_order": "swin", "qk_norm": "layer_per_head"},
    "parallel": {
        "norm_order": "parallel",
        "norm": "layer",
        "qk_norm": "layer",
        "feed_forward": "gelu",
        "biases": True,
    },
}


class Stored:
    """The two rows of `MODALITY` in the streams of a block."""

    def __init__(self, block):
        self.block = block
        self.position = {
            stream.name: self._slots([THREE.index(m) for m in stream.modalities])
            for stream in block.streams
        }
        self.geometry = {
            name: causal_geometry(position) for name, position in self.position.items()
        }

    @staticmethod
    def _slots(members):
        """Positions of some modalities' tokens, packed, with empty slots after."""
        slots = np.full(MODALITY.shape, -1)
        for row, kinds in enumerate(MODALITY):
            held = np.flatnonzero(np.isin(kinds, members))
            slots[row, : len(held)] = held
        return slots

    def streams(self, x_BTD):
        return {
            name: jnp.take_along_axis(x_BTD, jnp.maximum(position, 0)[..., None], 1)
            for name, position in self.position.items()
        }

    def delta(self, params, x_BTD):
        """The delta in sequence order."""
        stored = delta_of(self.block, params, self.streams(x_BTD), self.geometry)
        delta_BTD = jnp.zeros_like(x_BTD)
        row_B1 = np.arange(len(MODALITY))[:, None]
        for name, position in self.position.items():
            place = np.where(position < 0, MODALITY.shape[1], position)
            delta_BTD = delta_BTD.at[row_B1, place].set(stored[name], mode="drop")
        return delta_BTD


RNG = np.random.default_rng(0)
X, COTANGENT = jnp.asarray(RNG.normal(size=(2, *MODALITY.shape, 16)), jnp.float32)


def delta_and_gradients(stored, params):
    """The delta, and the gradients of parameters and hidden states."""

    def run(params, x):
        delta, pull = jax.vjp(stored.delta, params, x)
        return delta, *pull(COTANGENT)

    return jax.jit(run, compiler_options=QUICK_TO_COMPILE)(params, X)


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def dense(request):
    """A config, the parameters of its dense block, and what that makes of them."""
    stored = Stored(tiny_block(UntyingMap.tied(THREE), **request.param))
    params = random_params(stored.block, stored.streams(X), stored.geometry)
    return request.param, params, delta_and_gradients(stored, params)


@pytest.mark.parametrize("untying", MAPS.values(), ids=MAPS)
def test_equal_towers_are_the_dense_block_with_its_gradients(dense, untying):
    config, params, (expected, of_params, of_x) = dense
    towers = Stored(tiny_block(untying, **config))
    like = abstract_params(towers.block, towers.streams(X), towers.geometry)
    delta, of_towers, of_x_in_towers = delta_and_gradients(
        towers, in_towers(params, like)
    )
    np.testing.assert_allclose(delta, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_x_in_towers, of_x, rtol=1e-4, atol=1e-5)
    summed = {}
    for path, gradient in flat(of_towers).items():
        component, _, rest = path.split("/", 2)
        shared = f"{component}/shared/{rest}"
        summed[shared] = summed.get(shared, 0.0) + np.asarray(gradient)
    assert summed.keys() == flat(of_params).keys()
    for path, gradient in flat(of_params).items():
        np.testing.assert_allclose(
            summed[path], gradient, rtol=1e-4, atol=1e-4, err_msg=path
        )
        assert np.abs(gradient).max() > 1e-3, path
