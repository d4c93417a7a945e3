"""Parameters that belong to towers: a linear map and a norm, each one plain array op.

A component is applied stream by stream with the parameters of that stream's tower, so a
tower is an ordinary matrix product on a static block of tokens: no masks, no gathers,
no ragged products (2411.04996, Algorithm 1, without its boolean indexing).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

type Streams = dict[str, jax.Array]


def project(x_BTD: jax.Array, kernel_DF: jax.Array) -> jax.Array:
    """[B, T, D] @ [D, F] in the dtype of the tokens.

    Tokens are flattened first: XLA on CPU runs the batched product at half the speed
    (measured, docs/decisions.md); accelerators do not care.
    """
    B, T, D = x_BTD.shape
    y_NF = x_BTD.reshape(B * T, D) @ kernel_DF.astype(x_BTD.dtype)
    return y_NF.reshape(B, T, kernel_DF.shape[1])


def rms_norm(x: jax.Array, scale: jax.Array | None, epsilon: float) -> jax.Array:
    """Root-mean-square norm over the last axis, statistics in float32.

    Args:
      x: [..., D], any float dtype; the result has the same.
      scale: float32 [D], or None for no learned scale.
      epsilon: added to the mean square.
    """
    x_f32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x_f32), axis=-1, keepdims=True)
    normed = (x_f32 * jax.lax.rsqrt(mean_square + epsilon)).astype(x.dtype)
    if scale is None:
        return normed
    return normed * scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class TowerLinear(nn.Module):
    """One [D, F] kernel per tower; no bias.

    Attributes:
      towers: stream name -> tower name.
      shape: (D, F).
      axes: logical axis names of the kernel, for sharding.
      scale: multiplies the variance of the fan-in normal initialiser.
    """

    towers: Mapping[str, str]
    shape: tuple[int, int]
    axes: tuple[str, str]
    scale: float = 1.0

    @nn.compact
    def __call__(self, streams: Streams) -> Streams:
        """Applies each stream's own kernel to it."""
        fan_in_normal = initializers.variance_scaling(self.scale, "fan_in", "normal")
        init = nn.with_logical_partitioning(fan_in_normal, self.axes)
        # unbox=True is the default; named, it gives the result the type of an array.
        kernels: dict[str, jax.Array] = {
            tower: self.param(tower, init, self.shape, unbox=True)
            for tower in dict.fromkeys(self.towers.values())
        }
        return {
            name: project(x, kernels[self.towers[name]]) for name, x in streams.items()
        }


class TowerNorm(nn.Module):
    """One RMS norm scale per tower, over the last axis.

    Attributes:
      towers: stream name -> tower name.
      width: size of the last axis.
      axis: its logical name.
      epsilon: see `rms_norm`.
    """

    towers: Mapping[str, str]
    width: int
    axis: str = "norm"
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, streams: Streams) -> Streams:
        """Normalises each stream with its own scale."""
        init = nn.with_logical_partitioning(initializers.ones, (self.axis,))
        scales: dict[str, jax.Array] = {
            tower: self.param(tower, init, (self.width,), unbox=True)
            for tower in dict.fromkeys(self.towers.values())
        }
        return {
            name: rms_norm(x, scales[self.towers[name]], self.epsilon)
            for name, x in streams.items()
        }
