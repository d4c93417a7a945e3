"""Convolutions and normalisations that all the image tokenizers are made of.

Everything is channels last and float32. Codes are decisions, and a decision that falls
on the other side of a rounding error is another code, so every product asks for full
float32 precision: the default of TPUs and GPUs has 8 to 11 bits of it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

PRECISION = jax.lax.Precision.HIGHEST
NORM_GROUPS = 32
NORM_EPSILON = 1e-6
"""Groups and epsilon of every GroupNorm in the four published tokenizers."""
BATCH_NORM_EPSILON = 1e-5
"""PyTorch's default, which Emu3's tokenizer keeps."""

type Padding = Sequence[tuple[int, int]]

_kernel_initializer = nn.initializers.lecun_normal()


def convolve(
    x: jax.Array, kernel: jax.Array, padding: Padding, strides: Sequence[int]
) -> jax.Array:
    """Cross-correlation over the spatial axes, as deep learning calls convolution.

    Args:
      x: [B, space..., in].
      kernel: [space..., in, out].
      padding: zeros before and after each spatial axis.
      strides: one per spatial axis.

    Returns:
      [B, space..., out].
    """
    space = "DHW"[3 - len(strides) :]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        tuple(strides),
        tuple(padding),
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        precision=PRECISION,
    )


class Convolution(nn.Module):
    """A convolution with bias over images or videos.

    Attributes:
      channels: output channels.
      kernel_shape: size of the kernel along each spatial axis.
      padding: zeros before and after each spatial axis.
      strides: step along each spatial axis; None is 1 everywhere.
    """

    channels: int
    kernel_shape: tuple[int, ...] = (3, 3)
    padding: Padding = ((1, 1), (1, 1))
    strides: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, space..., in] -> [B, space..., channels]."""
        shape = (*self.kernel_shape, x.shape[-1], self.channels)
        kernel = self.param("kernel", _kernel_initializer, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        strides = self.strides or (1,) * len(self.kernel_shape)
        y = convolve(x, kernel, self.padding, strides)
        return y + jnp.broadcast_to(bias, y.shape)


class Pointwise(nn.Module):
    """A 1 x 1 convolution: one linear map of the channels of each place.

    Attributes:
      channels: output channels.
    """

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., channels]."""
        shape = (x.shape[-1], self.channels)
        kernel = self.param("kernel", _kernel_initializer, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        y = jnp.einsum("...i,io->...o", x, kernel, precision=PRECISION)
        return y + jnp.broadcast_to(bias, y.shape)


class GroupNorm(nn.Module):
    """GroupNorm with 32 groups, epsilon 1e-6, statistics in float32, affine."""

    @nn.compact
    def __call__(self, x_BYXC: jax.Array, code_BYXZ: jax.Array | None = None):
        """[B, Y, X, C] -> [B, Y, X, C].

        Args:
          x_BYXC: C a multiple of 32.
          code_BYXZ: not used; normalisations of decoders share one signature.
        """
        del code_BYXZ
        channels = x_BYXC.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        split = (*x_BYXC.shape[:-1], NORM_GROUPS, channels // NORM_GROUPS)
        grouped = x_BYXC.astype(jnp.float32).reshape(split)
        mean = grouped.mean((1, 2, 4), keepdims=True)
        variance = jnp.square(grouped - mean).mean((1, 2, 4), keepdims=True)
        normal = (grouped - mean) * jax.lax.rsqrt(variance + NORM_EPSILON)
        return _affine(normal.reshape(x_BYXC.shape), scale, bias)


class SpatialNorm(nn.Module):
    """GroupNorm whose scale and shift come from the codes (MoVQ, 2209.09002).

    Each place is scaled and shifted by linear maps of the code vector that stands over
    it. The maps are taken on the code's own grid and their results repeated to the
    grid of x, which gives the same numbers for less work.
    """

    @nn.compact
    def __call__(self, x_BYXC: jax.Array, code_BYXZ: jax.Array):
        """[B, Y, X, C] -> [B, Y, X, C].

        Args:
          x_BYXC: C a multiple of 32.
          code_BYXZ: code vectors; their grid divides x's.
        """
        channels = x_BYXC.shape[-1]
        factor = x_BYXC.shape[1] // code_BYXZ.shape[1]
        scale = repeat_places(Pointwise(channels, name="code_scale")(code_BYXZ), factor)
        shift = repeat_places(Pointwise(channels, name="code_shift")(code_BYXZ), factor)
        return GroupNorm(name="group_norm")(x_BYXC) * scale + shift


class BatchNorm(nn.Module):
    """BatchNorm at inference: the running statistics are parameters like any other.

    `batches_seen`, int32, is PyTorch's count of training batches. Nothing reads it; it
    is here so that a file that was read can be written again.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.param("mean", nn.initializers.zeros, shape)
        variance = self.param("variance", nn.initializers.ones, shape)
        self.param("batches_seen", nn.initializers.zeros, (), jnp.int32)
        factor = scale * jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)
        return _affine(x - jnp.broadcast_to(mean, x.shape), factor, bias)


def repeat_places(x_BYXC: jax.Array, factor: int) -> jax.Array:
    """Nearest-neighbour enlargement: [B, Y, X, C] -> [B, factor Y, factor X, C]."""
    return x_BYXC.repeat(factor, axis=1).repeat(factor, axis=2)


def _affine(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return x * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(bias, x.shape)
