"""The encoder and decoder that every one of the tokenizers shares: a ladder of levels.

All descend from taming-transformers (2012.09841): residual blocks at each level, a
halving of the grid between levels, and a middle with attention on the coarsest grid.
They differ in sizes, in which levels have attention, and in how decoders normalise.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax.image_tokenizers.convolution import (
    NORM_GROUPS,
    PRECISION,
    Convolution,
    GroupNorm,
    Pointwise,
    repeat_places,
)

QUERIES_AT_ONCE = 1024
"""Places whose attention scores exist at once. At 720 x 720 pixels Emu3's coarsest grid
has 8,100 places: 33 MB of scores per image instead of 262 MB."""

type Norm = Callable[..., Callable[..., jax.Array]]
"""Name -> function of an image and, for SpatialNorm, of the codes over it."""


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The sizes of an encoder or decoder; level 0 is the finest grid.

    Attributes:
      channels: width of each level, multiples of 32; the grid halves between levels.
      blocks: residual blocks of each level.
      attention_levels: levels with attention after each residual block.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    attention_levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that make no ladder."""
        if not self.channels or len(self.channels) != len(self.blocks):
            raise ValueError(
                f"channels {self.channels} and blocks {self.blocks} have different "
                "lengths or none; give one of each per level."
            )
        if any(width % NORM_GROUPS or width < 1 for width in self.channels):
            raise ValueError(
                f"channels {self.channels} are normalised in {NORM_GROUPS} groups; "
                f"use multiples of {NORM_GROUPS}."
            )

    @property
    def downsampling(self) -> int:
        """Pixels per place along each side: 2 to the power of halvings."""
        return 2 ** (len(self.channels) - 1)


class ResidualBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), x mapped if the width changes.

    Attributes:
      channels: output channels.
      norm: GroupNorm or SpatialNorm.
    """

    channels: int
    norm: Norm = GroupNorm

    @nn.compact
    def __call__(self, x_BYXC: jax.Array, code_BYXZ: jax.Array | None = None):
        """[B, Y, X, C] -> [B, Y, X, channels], for SpatialNorm under the codes."""
        h = nn.swish(self.norm(name="norm_1")(x_BYXC, code_BYXZ))
        h = Convolution(self.channels, name="conv_1")(h)
        h = nn.swish(self.norm(name="norm_2")(h, code_BYXZ))
        h = Convolution(self.channels, name="conv_2")(h)
        if x_BYXC.shape[-1] != self.channels:
            x_BYXC = Pointwise(self.channels, name="shortcut")(x_BYXC)
        return x_BYXC + h


class GridAttention(nn.Module):
    """x + attention(norm(x)) of one head, among all places of the grid.

    Not the attention of the transformer (`unimod_jax.mot.attention`): no mask, no
    rotary phase, one head as wide as the channels.

    Attributes:
      norm: GroupNorm or SpatialNorm.
    """

    norm: Norm = GroupNorm

    @nn.compact
    def __call__(self, x_BYXC: jax.Array, code_BYXZ: jax.Array | None = None):
        """[B, Y, X, C] -> [B, Y, X, C], for SpatialNorm under the codes."""
        channels = x_BYXC.shape[-1]
        h = self.norm(name="norm")(x_BYXC, code_BYXZ)
        h = h.reshape(h.shape[0], -1, channels)
        query, key, value = (
            Pointwise(channels, name=name)(h) for name in ("query", "key", "value")
        )
        mixed = attend_all(query, key, value).reshape(x_BYXC.shape)
        return x_BYXC + Pointwise(channels, name="output")(mixed)


def attend_all(
    query_BNC: jax.Array, key_BNC: jax.Array, value_BNC: jax.Array
) -> jax.Array:
    """softmax(query key^T / sqrt(C)) value, `QUERIES_AT_ONCE` queries at a time.

    Args:
      query_BNC: [B, N, C] float32; N places.
      key_BNC: [B, N, C] float32.
      value_BNC: [B, N, C] float32.

    Returns:
      [B, N, C] float32.
    """
    scale = query_BNC.shape[-1] ** -0.5
    product = functools.partial(jnp.einsum, precision=PRECISION)

    def attend(query_BC: jax.Array) -> jax.Array:
        score_BN = product("BC,BNC->BN", query_BC, key_BNC) * scale
        return product("BN,BNC->BC", jax.nn.softmax(score_BN), value_BNC)

    together = min(QUERIES_AT_ONCE, query_BNC.shape[1])
    mixed_NBC = jax.lax.map(attend, query_BNC.swapaxes(0, 1), batch_size=together)
    return mixed_NBC.swapaxes(0, 1)


class Level(nn.Module):
    """The residual blocks of one level, each followed by attention if it has any.

    Attributes:
      channels: width of the level.
      blocks: residual blocks.
      attends: whether it has attention.
      norm: GroupNorm or SpatialNorm.
    """

    channels: int
    blocks: int
    attends: bool
    norm: Norm = GroupNorm

    @nn.compact
    def __call__(self, x_BYXC: jax.Array, code_BYXZ: jax.Array | None = None):
        """[B, Y, X, C] -> [B, Y, X, channels]."""
        for block in range(self.blocks):
            residual = ResidualBlock(self.channels, self.norm, name=f"residual_{block}")
            x_BYXC = residual(x_BYXC, code_BYXZ)
            if self.attends:
                attention = GridAttention(self.norm, name=f"attention_{block}")
                x_BYXC = attention(x_BYXC, code_BYXZ)
        return x_BYXC


class Middle(nn.Module):
    """Residual block, attention, residual block on the coarsest grid.

    Attributes:
      norm: GroupNorm or SpatialNorm.
    """

    norm: Norm = GroupNorm

    @nn.compact
    def __call__(self, x_BYXC: jax.Array, code_BYXZ: jax.Array | None = None):
        """[B, Y, X, C] -> [B, Y, X, C]."""
        channels = x_BYXC.shape[-1]
        x_BYXC = ResidualBlock(channels, self.norm, name="residual_0")(
            x_BYXC, code_BYXZ
        )
        x_BYXC = GridAttention(self.norm, name="attention_0")(x_BYXC, code_BYXZ)
        return ResidualBlock(channels, self.norm, name="residual_1")(x_BYXC, code_BYXZ)


class Encoder(nn.Module):
    """Pixels to latents, down the ladder.

    Attributes:
      ladder: the sizes.
      latent_channels: channels of the result.
    """

    ladder: Ladder
    latent_channels: int

    @nn.compact
    def __call__(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> [B, Y / downsampling, X / downsampling, latent_channels].

        A halving pads one row below and one column to the right, not all around.
        """
        widths = self.ladder.channels
        h = Convolution(widths[0], name="conv_in")(pixel_BYXC)
        for level, width in enumerate(widths):
            attends = level in self.ladder.attention_levels
            blocks = self.ladder.blocks[level]
            h = Level(width, blocks, attends, name=f"level_{level}")(h)
            if level + 1 < len(widths):
                halving = Convolution(
                    width,
                    padding=((0, 1), (0, 1)),
                    strides=(2, 2),
                    name=f"halving_{level}",
                )
                h = halving(h)
        h = nn.swish(GroupNorm(name="norm_out")(Middle(name="middle")(h)))
        return Convolution(self.latent_channels, name="conv_out")(h)


class Decoder(nn.Module):
    """Latents to pixels, up the ladder from its last level to its first.

    Attributes:
      ladder: the sizes.
      image_channels: channels of the result.
      norm: GroupNorm, or SpatialNorm for a decoder that looks at the codes everywhere.
    """

    ladder: Ladder
    image_channels: int = 3
    norm: Norm = GroupNorm

    @nn.compact
    def __call__(self, latent_BYXZ: jax.Array, code_BYXZ: jax.Array | None = None):
        """[B, Y, X, Z] -> [B, Y * downsampling, X * downsampling, image_channels]."""
        widths = self.ladder.channels
        h = Convolution(widths[-1], name="conv_in")(latent_BYXZ)
        h = Middle(self.norm, name="middle")(h, code_BYXZ)
        for level in reversed(range(len(widths))):
            attends = level in self.ladder.attention_levels
            rung = Level(
                widths[level],
                self.ladder.blocks[level],
                attends,
                self.norm,
                name=f"level_{level}",
            )
            h = rung(h, code_BYXZ)
            if level:
                doubling = Convolution(widths[level], name=f"doubling_{level}")
                h = doubling(repeat_places(h, 2))
        h = nn.swish(self.norm(name="norm_out")(h, code_BYXZ))
        return Convolution(self.image_channels, name="conv_out")(h)
