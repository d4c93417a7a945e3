"""Parameters that belong to towers: single-stream modules, and the one combinator.

A component is applied stream by stream with the parameters of that stream's tower, so a
tower is an ordinary matrix product on a static block of tokens: no masks, no gathers,
no ragged products (2411.04996, Algorithm 1, without its boolean indexing). `Linear` and
`Norm` know nothing of towers; `Towers` makes one of them per tower, so parameter paths
read component, tower, parameter: `query/text/kernel`.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unimod_jax.parallel import constrain, num_parts

type Streams = dict[str, jax.Array]


def project(x_BTD: jax.Array, kernel_DF: jax.Array) -> jax.Array:
    """[B, T, D] @ [D, F] in the dtype of the tokens.

    Tokens are flattened first: XLA on CPU runs the batched product at half the speed
    (measured, docs/decisions.md); accelerators do not care. Not where a mesh cuts the
    tokens of rows, which would have to be gathered for it.
    """
    B, T, D = x_BTD.shape
    kernel_DF = kernel_DF.astype(x_BTD.dtype)
    if num_parts("token", T) > 1:
        return x_BTD @ kernel_DF
    y_NF = x_BTD.reshape(B * T, D) @ kernel_DF
    return y_NF.reshape(B, T, kernel_DF.shape[1])


def project_apart(x_ABTD: jax.Array, kernel_DF: jax.Array) -> jax.Array:
    """`project` where devices share the outputs and each has a copy of the tokens.

    Args:
      x_ABTD: equal along A, which divides F.
      kernel_DF: any float dtype.

    Returns:
      [B, T, F], part after part.
    """
    A, B, T, D = x_ABTD.shape
    kernel_DAF = kernel_DF.astype(x_ABTD.dtype).reshape(D, A, -1)
    return jnp.einsum("ABTD,DAF->BTAF", x_ABTD, kernel_DAF).reshape(B, T, -1)


def project_in_parts(x_BTF: jax.Array, kernel_FD: jax.Array, parts: int) -> jax.Array:
    """`project` where devices share the inputs: [A, B, T, D], to be summed over A."""
    x_BTAF = x_BTF.reshape(*x_BTF.shape[:2], parts, -1)
    kernel_AFD = kernel_FD.astype(x_BTF.dtype).reshape(parts, -1, kernel_FD.shape[1])
    return jnp.einsum("BTAF,AFD->ABTD", x_BTAF, kernel_AFD)


def in_first_part(x: jax.Array, parts: int) -> jax.Array:
    """The parts of a sum that is x: x itself, then zeros, along a new first axis."""
    first_A = jnp.arange(parts).reshape(-1, *(1,) * x.ndim) == 0
    return jnp.where(first_A, x[None], jnp.zeros_like(x)[None])


def rms_norm(x: jax.Array, scale: jax.Array | None, epsilon: float) -> jax.Array:
    """Root-mean-square norm over the last axis, statistics in float32.

    The result is cast before it is scaled, as in Llama's and Chameleon's code.

    Args:
      x: [..., D], any float dtype; the result has the same.
      scale: float32 [D] or [H, D], or None for no learned scale.
      epsilon: added to the mean square.
    """
    x_f32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x_f32), axis=-1, keepdims=True)
    normed = (x_f32 * jax.lax.rsqrt(mean_square + epsilon)).astype(x.dtype)
    if scale is None:
        return normed
    return normed * _leading_ones(scale, x.ndim).astype(x.dtype)


def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """Layer norm over the last axis, all in float32, cast at the end (as torch does).

    Args:
      x: [..., D], any float dtype; the result has the same.
      scale, bias: float32 [D] or [H, D].
      epsilon: added to the variance.
    """
    x_f32 = x.astype(jnp.float32)
    centred = x_f32 - jnp.mean(x_f32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + epsilon)
    scaled = normed * _leading_ones(scale, x.ndim) + _leading_ones(bias, x.ndim)
    return scaled.astype(x.dtype)


def _leading_ones(weight: jax.Array, rank: int) -> jax.Array:
    return weight.reshape((1,) * (rank - weight.ndim) + weight.shape)


class Linear(nn.Module):
    """One projection: parameters `kernel` [D, F] and, if asked for, `bias` [F].

    Under tensor parallelism tokens may come in copies, one for each part of the
    outputs; and a projection back to the width leaves the parts of its sum to whoever
    adds them up (see `tensor_parallel`).

    Attributes:
      shape: (D, F).
      axes: logical axis names of the kernel, for sharding; the bias has the second.
      scale: multiplies the variance of the fan-in normal initialiser.
      bias: whether to add a bias, initially zero.
    """

    shape: tuple[int, int]
    axes: tuple[str, str]
    scale: float = 1.0
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, D] (or [A, B, T, D], copies) to [B, T, F] in the same dtype.

        If F is the model width and a mesh cuts D, the result is [A, B, T, F], parts.
        """
        fan_in_normal = initializers.variance_scaling(self.scale, "fan_in", "normal")
        init = nn.with_logical_partitioning(fan_in_normal, self.axes)
        # unbox=True is the default; named, it gives the result the type of an array.
        kernel_DF = self.param("kernel", init, self.shape, unbox=True)
        bias_F = None
        if self.bias:
            zeros = nn.with_logical_partitioning(initializers.zeros, self.axes[1:])
            bias_F = self.param("bias", zeros, self.shape[1:], unbox=True)
            bias_F = bias_F.astype(x.dtype)
        axis_in, axis_out = self.axes
        parts = num_parts(axis_in, self.shape[0]) if axis_out == "embed" else 1
        if parts > 1:
            y_ABTF = project_in_parts(x, kernel_DF, parts)
            if bias_F is not None:
                y_ABTF += in_first_part(bias_F[None, None], parts)
            return constrain(y_ABTF, axis_in, "batch", "token", None)
        y_BTF = project_apart(x, kernel_DF) if x.ndim == 4 else project(x, kernel_DF)
        if bias_F is not None:
            y_BTF += bias_F[None, None]
        whole = axis_out == "embed"
        return constrain(y_BTF, "batch", "token", None if whole else axis_out)


class Norm(nn.Module):
    """One norm over the last axis: parameters `scale` and, for layer norms, `bias`.

    Attributes:
      kind: "rms", "layer", or "none" (the identity, without parameters).
      width: size of the last axis.
      epsilon: see `rms_norm` and `layer_norm`.
      num_heads: if given, weights are [num_heads, width], one row per head of
        [B, T, H, E], as in released Chameleon; else [width] serves all.
    """

    kind: Literal["none", "rms", "layer"]
    width: int
    epsilon: float = 1e-5
    num_heads: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., width]; the result has the dtype of x."""
        if self.kind == "none":
            return x
        scale = self._weight("scale", initializers.ones)
        if self.kind == "rms":
            return rms_norm(x, scale, self.epsilon)
        return layer_norm(
            x, scale, self._weight("bias", initializers.zeros), self.epsilon
        )

    def _weight(self, name: str, init: initializers.Initializer) -> jax.Array:
        per_head = self.num_heads is not None
        shape = (self.num_heads, self.width) if per_head else (self.width,)
        axes = (None, "norm") if per_head else ("norm",)
        boxed = nn.with_logical_partitioning(init, axes)
        return self.param(name, boxed, shape, unbox=True)


class Towers(nn.Module):
    """One module per tower; each stream goes through its own tower's.

    Every tower gets its parameters at initialisation, also when the streams that use it
    are missing from the batch.

    Attributes:
      towers: stream name -> tower name.
      build: called with `name=tower`; a partial of a module class, or a function when
        towers differ.
    """

    towers: Mapping[str, str]
    build: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, streams: Streams, *alongside: Streams) -> Streams:
        """Applies each stream's own module to it.

        Args:
          streams: stream -> array; any of the streams in `towers`.
          *alongside: further arguments of the modules, stream -> array each.
        """
        modules = {
            tower: self.build(name=tower)
            for tower in dict.fromkeys(self.towers.values())
        }

        def apply(stream: str, tower: str) -> jax.Array:
            more = [arrays[stream] for arrays in alongside]
            return modules[tower](streams[stream], *more)

        if self.is_initializing():
            anyone = next(iter(streams))
            for tower in modules:
                apply(anyone, tower)
        return {name: apply(name, self.towers[name]) for name in streams}
