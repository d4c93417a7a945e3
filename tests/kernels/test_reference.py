"""The definition passes the suite and is differentiable by plain autodiff."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.routed_attention.reference import reference, visible_keys
from tests.kernels.attention_cases import (
    packed_documents,
    random_case,
)
from tests.kernels.dropout_suite import AttentionDropoutSuite


class TestReference(AttentionDropoutSuite):
    """The suite for `implementation="reference"`."""

    implementation = "reference"


def test_visible_keys_of_packed_text_and_image_equal_the_matrix_drawn_by_hand():
    # Document one: two text tokens, an image of two, one text token; document two: one
    # text token and an image of two; the last key is padding.
    visibility = packed_documents([5, 3], [(2, 4), (6, 8)])
    key_position = np.append(visibility.key_position, -1)[None].astype(np.int32)
    drawn = """
        x . . . . . . . .
        x x . . . . . . .
        x x x x . . . . .
        x x x x . . . . .
        x x x x x . . . .
        . . . . . x . . .
        . . . . . x x x .
        . . . . . x x x .
    """
    wanted = [[mark == "x" for mark in row.split()] for row in drawn.split("\n")[1:-1]]
    arguments = (visibility.window_start, visibility.window_end, key_position)
    visible = visible_keys(*(jnp.asarray(x) for x in arguments))
    np.testing.assert_array_equal(visible[0], wanted)


def test_forward_mode_agrees_with_reverse_mode():
    case = random_case(0, packed_documents([6, 5], [(1, 4)]))
    visibility = tuple(jnp.asarray(x) for x in case.visibility)
    q, k, v, tangent = (jnp.asarray(x) for x in case[:4])

    def total(q):
        return jnp.sum(jnp.sin(reference(q, k, v, *visibility, scale=case.scale)))

    @jax.jit
    def slopes(q, tangent):
        _, forward = jax.jvp(total, (q,), (tangent,))
        return forward, jnp.vdot(jax.grad(total)(q), tangent)

    forward, reverse = slopes(q, tangent)
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)
