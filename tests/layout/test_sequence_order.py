"""Tokens by position and back, by gathers alone."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.mot.tiny_block import causal_geometry
from unimod_jax.layout import IMAGE, TEXT, sequence_order

# Joined by name, images first: slots 0 to 2 hold images, 3 to 6 text.
GEOMETRY = {
    TEXT: causal_geometry([[0, 3, -1, 4], [-1, -1, -1, -1]]),
    IMAGE: causal_geometry([[1, 2, -1], [1, 0, 2]]),
}
ORDER = sequence_order(GEOMETRY)


def test_tokens_stand_by_position_and_empty_slots_last():
    expected = [[3, 0, 1, 4, 6, 2, 5], [1, 0, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(ORDER.index_BT, expected)
    assert ORDER.index_BT.dtype == ORDER.place_BT.dtype == jnp.int32
    position = jnp.asarray([[1, 2, -1, 0, 3, -1, 4], [1, 0, 2, -1, -1, -1, -1]])
    np.testing.assert_array_equal(
        ORDER.to_sequence(position),
        [[0, 1, 2, 3, 4, -1, -1], [0, 1, 2, -1, -1, -1, -1]],
    )


def test_storage_order_undoes_sequence_order():
    x = jnp.arange(2 * 7 * 3 * 2, dtype=jnp.float32).reshape(2, 7, 3, 2)
    np.testing.assert_array_equal(ORDER.to_storage(ORDER.to_sequence(x)), x)
    np.testing.assert_array_equal(ORDER.to_sequence(ORDER.to_storage(x)), x)


def test_the_order_of_the_dictionary_does_not_matter():
    other = sequence_order(dict(reversed(GEOMETRY.items())))
    jax.tree.map(np.testing.assert_array_equal, other, ORDER)


def test_gradients_move_back_by_gathers():
    x = jnp.arange(2.0 * 7 * 2).reshape(2, 7, 2)

    def pulled(gradient):
        return jax.vjp(ORDER.to_sequence, x)[1](gradient)[0]

    np.testing.assert_array_equal(pulled(ORDER.to_sequence(x)), x)
    program = str(jax.make_jaxpr(pulled)(x))
    assert "gather" in program
    assert "scatter" not in program
