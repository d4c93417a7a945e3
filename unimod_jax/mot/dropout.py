"""Dropout of what a branch adds to the residual stream (Chameleon 7B, Emu3: 0.1)."""

import jax
import jax.numpy as jnp


def dropped_out(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Zeroes a share of the entries and scales the others up, so the mean stays.

    Args:
      x: any float array; the result has its shape and dtype.
      rate: share of entries to zero, at least 0 and below 1.
      key: random key.
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))
