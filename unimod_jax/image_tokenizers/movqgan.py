"""Emu3's image tokenizer: a MoVQGAN with convolutions through time, 32,768 codes.

Emu3 (2409.18869, 2.2) extends MoVQ (2209.09002) to videos: 8 x 8 pixels and four frames
are one code, and its decoder's normalisations look at the codes at every level. The
weights are `BAAI/Emu3-VisionTokenizer`, and part of `BAAI/Emu3-Chat-hf`.

To Emu3 an image is a video of four equal frames, of which it decodes the first. This
module is for images, and spares what that repeats:

- down the ladder each frame is on its own, so one frame is encoded and repeated after;
- through time nothing looks ahead, so the first frame of the four can be decoded alone.

The results are the same and the work is a quarter.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax.image_tokenizers.codebook import Codebook
from unimod_jax.image_tokenizers.convolution import (
    BatchNorm,
    Convolution,
    SpatialNorm,
)
from unimod_jax.image_tokenizers.image_tokenizer import ImageTokenizer
from unimod_jax.image_tokenizers.ladder import Decoder, Encoder, Ladder

PAST_FRAMES = 2
"""Empty frames before the first, in front of every convolution through time."""


@dataclasses.dataclass(frozen=True)
class MovqganConfig:
    """Sizes; the defaults are the release's.

    Attributes:
      channels: width of each level, finest first: 256 times 1, 2, 2, 4.
      blocks: residual blocks of an encoder level, and of each stack through time; a
        decoder level has one more.
      attention_levels: levels with attention after each residual block.
      latent_channels: channels between ladder and quantiser.
      code_width: values of a code vector; as many as latent channels, because both
        pass the decoder's stack through time.
      num_codes: code vectors.
      time_halvings: how often frames are halved; an image is 2^time_halvings frames.
    """

    channels: tuple[int, ...] = (256, 512, 512, 1024)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (3,)
    latent_channels: int = 4
    code_width: int = 4
    num_codes: int = 32768
    time_halvings: int = 2

    def __post_init__(self) -> None:
        """Raises ValueError if code and latent have different widths."""
        if self.code_width != self.latent_channels:
            raise ValueError(
                f"code_width is {self.code_width} but latent_channels is "
                f"{self.latent_channels}; both pass one stack, make them equal."
            )


def causal_convolution(
    channels: int,
    kernel_shape: tuple[int, int, int],
    frame_stride: int,
    name: str | None,
) -> Convolution:
    """A convolution of [B, frames, Y, X, C] in which no frame sees a later one.

    Args:
      channels: output channels.
      kernel_shape: frames, rows (odd), columns (odd).
      frame_stride: frames per frame of the result.
      name: of the module; None where `setup` names it.
    """
    around = tuple((side // 2, side // 2) for side in kernel_shape[1:])
    return Convolution(
        channels,
        kernel_shape,
        padding=((PAST_FRAMES, 0), *around),
        strides=(frame_stride, 1, 1),
        name=name,
    )


class TimeResidual(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))) over frames, with BatchNorm."""

    @nn.compact
    def __call__(self, x_BMYXC: jax.Array) -> jax.Array:
        """[B, M, Y, X, C] -> [B, M, Y, X, C]; M frames."""
        channels = x_BMYXC.shape[-1]
        h = x_BMYXC
        for index in (1, 2):
            h = nn.swish(BatchNorm(name=f"norm_{index}")(h))
            h = causal_convolution(channels, (3, 3, 3), 1, f"conv_{index}")(h)
        return x_BMYXC + h


class FrameEncoder(nn.Module):
    """The encoder's ladder on one frame, then the four equal frames through time.

    Attributes:
      config: the sizes.
    """

    config: MovqganConfig

    @nn.compact
    def __call__(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> [B, 1, y, x, latent_channels]."""
        config = self.config
        width = config.latent_channels
        blocks = (config.blocks,) * len(config.channels)
        ladder = Ladder(config.channels, blocks, config.attention_levels)
        frame_BYXZ = Encoder(ladder, width, name="ladder")(pixel_BYXC)
        h = jnp.repeat(frame_BYXZ[:, None], 2**config.time_halvings, axis=1)
        for index in range(config.time_halvings):
            name = f"time_halving_{index}"
            h = nn.swish(causal_convolution(width, (4, 3, 3), 2, name)(h))
        for index in range(config.blocks):
            h = TimeResidual(name=f"time_residual_{index}")(h)
        return h


class FrameDecoder(nn.Module):
    """The first frame through time, then the decoder's ladder under the codes.

    Attributes:
      config: the sizes.
    """

    config: MovqganConfig

    @nn.compact
    def __call__(self, latent_BMYXZ: jax.Array, code_BMYXZ: jax.Array) -> jax.Array:
        """[B, 1, y, x, Z] latents and code vectors -> [B, Y, X, 3]."""
        config = self.config
        h = jnp.concatenate((latent_BMYXZ, code_BMYXZ))
        for index in range(config.blocks):
            h = TimeResidual(name=f"time_residual_{index}")(h)
        for index in range(config.time_halvings):
            name = f"time_doubling_{index}"
            h = nn.swish(causal_convolution(h.shape[-1], (3, 3, 3), 1, name)(h))
        latent_BYXZ, code_BYXZ = jnp.split(h[:, 0], 2)
        blocks = (config.blocks + 1,) * len(config.channels)
        ladder = Ladder(config.channels, blocks, config.attention_levels)
        decoder = Decoder(ladder, norm=SpatialNorm, name="ladder")
        return decoder(latent_BYXZ, code_BYXZ)


class Movqgan(nn.Module):
    """Encoder, quantiser and decoder of images.

    Attributes:
      config: the sizes.
    """

    config: MovqganConfig

    def setup(self) -> None:
        config = self.config
        self.encoder = FrameEncoder(config)
        self.quant_conv = causal_convolution(config.code_width, (3, 1, 1), 1, None)
        self.codebook = Codebook(config.num_codes, config.code_width)
        self.post_quant_conv = causal_convolution(
            config.latent_channels, (3, 1, 1), 1, None
        )
        self.decoder = FrameDecoder(config)

    def latent(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> [B, y, x, code_width], not yet quantised."""
        return self.quant_conv(self.encoder(pixel_BYXC))[:, 0]

    def encode(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> int32 [B, y, x]."""
        return self.codebook.nearest(self.latent(pixel_BYXC))

    def decode(self, code_BYX: jax.Array) -> jax.Array:
        """int32 [B, y, x] -> [B, Y, X, 3]."""
        code_BMYXZ = self.codebook.look_up(code_BYX)[:, None]
        return self.decoder(self.post_quant_conv(code_BMYXZ), code_BMYXZ)

    def reconstruct(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> [B, Y, X, 3] through the codes."""
        return self.decode(self.encode(pixel_BYXC))


DEFAULT = MovqganConfig()


def movqgan_tokenizer(config: MovqganConfig = DEFAULT) -> ImageTokenizer:
    """The tokenizer of these sizes: 32,768 codes, 8 x 8 pixels each, by default."""
    downsampling = 2 ** (len(config.channels) - 1)
    return ImageTokenizer(Movqgan(config), config.num_codes, downsampling)
