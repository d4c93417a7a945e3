"""A gather of tokens whose gradient is a gather too: nothing is ever scattered.

Whoever moves tokens by a map here knows its inverse as well: a permutation has one, a
selection knows where each token went. Autodiff would add the gradients up by a scatter;
by the inverse map each token reads its own. That holds for maps that read a token at
most once in each part that shares the tokens, and for inverses that name that place.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

type Bounds = Literal["fill", "promise_in_bounds"]
"""What holds of an index: "fill" reads zeros where it is past the end. A permutation
can promise that it never is; the check would cost TPUs a pass of its own."""


def inverse_gather(
    x: jax.Array, index: jax.Array, inverse: jax.Array, bounds: Bounds = "fill"
) -> jax.Array:
    """Reads x[..., index[..., m], ...]; its gradient is the gather by the inverse.

    Args:
      x: [..., N, features...]. An axis in front of N that has size 1 where the index
        has more is shared: each part reads the same tokens, their gradients are added.
      index: int32 [..., M], the token that each place reads.
      inverse: int32 [..., N], the place that reads each token; past the end if none.
      bounds: of both maps.

    Returns:
      [..., M, features...].
    """
    shared = tuple(
        axis
        for axis, size in enumerate(index.shape[:-1])
        if x.shape[axis] == 1 and size > 1
    )
    return _gathered(bounds, shared, x, index, inverse)


def gather(x: jax.Array, index: jax.Array, bounds: Bounds = "fill") -> jax.Array:
    """Reads x[..., index[..., m], ...] without a gradient of its own.

    Args:
      x, index, bounds: as of `inverse_gather`.
    """
    axis = index.ndim - 1
    aligned = index.reshape(index.shape + (1,) * (x.ndim - index.ndim))
    fill_value = 0 if bounds == "fill" else None
    return jnp.take_along_axis(
        x, aligned, axis=axis, mode=bounds, fill_value=fill_value
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(bounds, shared, x, index, inverse):
    del shared, inverse
    return gather(x, index, bounds)


def _forward(bounds, shared, x, index, inverse):
    return _gathered(bounds, shared, x, index, inverse), inverse


def _backward(bounds, shared, inverse, gradient):
    moved_back = gather(gradient, inverse, bounds)
    if shared:
        moved_back = jnp.sum(moved_back, axis=shared, keepdims=True)
    return moved_back, None, None


_gathered.defvjp(_forward, _backward)
