"""A variational autoencoder of images: continuous latents for diffusion (Transfusion).

Transfusion (2408.11039, section 3) diffuses latents of a VAE, not codes. This is the
one of latent diffusion (2112.10752, 3.1) in the layout that diffusers publishes, for
example `stabilityai/sd-vae-ft-mse`: 8 x 8 pixels are one place with four channels.
Transfusion's own, 86M parameters and eight channels, is not published;
`latent_channels=8` has its shape.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax.image_tokenizers.convolution import Pointwise
from unimod_jax.image_tokenizers.image_sizes import (
    check_pixels,
    grid_of,
    sides_up_to,
)
from unimod_jax.image_tokenizers.image_tokenizer import Parameters
from unimod_jax.image_tokenizers.ladder import Decoder, Encoder, Ladder

LOG_VARIANCE_BOUNDS = (-30.0, 20.0)
"""diffusers' DiagonalGaussianDistribution clips log-variances to these."""


@dataclasses.dataclass(frozen=True)
class AutoencoderKlConfig:
    """Sizes; the defaults are those of Stable Diffusion 1 and 2.

    Attributes:
      channels: width of each level, finest first.
      blocks: residual blocks of an encoder level; a decoder level has one more.
      latent_channels: channels of a latent.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4


class LatentDistribution(NamedTuple):
    """A Gaussian for each value of the latents.

    Attributes:
      mean_BYXZ: float32.
      log_variance_BYXZ: float32, in [-30, 20].
    """

    mean_BYXZ: jax.Array
    log_variance_BYXZ: jax.Array


class AutoencoderKlModule(nn.Module):
    """Encoder and decoder.

    Attributes:
      config: the sizes.
    """

    config: AutoencoderKlConfig

    def setup(self) -> None:
        config = self.config
        levels = len(config.channels)
        down = Ladder(config.channels, (config.blocks,) * levels)
        up = Ladder(config.channels, (config.blocks + 1,) * levels)
        self.encoder = Encoder(down, 2 * config.latent_channels)
        self.quant_conv = Pointwise(2 * config.latent_channels)
        self.post_quant_conv = Pointwise(config.latent_channels)
        self.decoder = Decoder(up)

    def encode(self, pixel_BYXC: jax.Array) -> LatentDistribution:
        """[B, Y, X, 3] -> mean and log-variance, [B, y, x, latent_channels] each."""
        moments = self.quant_conv(self.encoder(pixel_BYXC))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return LatentDistribution(mean, log_variance.clip(*LOG_VARIANCE_BOUNDS))

    def decode(self, latent_BYXZ: jax.Array) -> jax.Array:
        """[B, y, x, latent_channels] -> [B, Y, X, 3]."""
        return self.decoder(self.post_quant_conv(latent_BYXZ))

    def reconstruct(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> [B, Y, X, 3] through the mean."""
        return self.decode(self.encode(pixel_BYXC).mean_BYXZ)


@dataclasses.dataclass(frozen=True)
class AutoencoderKl:
    """A VAE without its parameters; every method is pure.

    Latents are as the encoder makes them. Diffusion models want unit variance: latent
    diffusion multiplies by `scaling_factor` of the published config.json (0.18215 for
    Stable Diffusion 1 and 2) before it adds noise, and divides before it decodes.

    Attributes:
      config: the sizes.
    """

    config: AutoencoderKlConfig = AutoencoderKlConfig()

    @property
    def module(self) -> AutoencoderKlModule:
        """The Linen module that names the parameters."""
        return AutoencoderKlModule(self.config)

    @property
    def downsampling(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.config.channels) - 1)

    def init(self, key: jax.Array) -> Parameters:
        """Random parameters, for shapes and tests; the useful ones are published."""
        side = self.downsampling
        image = jnp.zeros((1, side, side, 3), jnp.float32)
        return self.module.init(key, image, method="reconstruct")["params"]

    def parameter_shapes(self) -> Parameters:
        """Shapes and dtypes of the parameters, without computing them."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of latents of an image; ValueError if they are not whole."""
        return grid_of(height, width, self.downsampling)

    def sides_up_to(self, largest: int) -> tuple[int, ...]:
        """All sides, in pixels up to the largest, that it can encode."""
        return sides_up_to(largest, self.downsampling)

    def encode(self, params: Parameters, pixel_BYXC: jax.Array) -> LatentDistribution:
        """Distributions of latents; images of a batch do not see each other.

        Args:
          params: as `init` makes them.
          pixel_BYXC: float32 [B, Y, X, 3] in [-1, 1].

        Raises:
          ValueError: if pixels have another shape or dtype, or a side is not a multiple
            of `downsampling`.
        """
        check_pixels(pixel_BYXC.shape, pixel_BYXC.dtype, self.downsampling)
        encoded: Any = self.module.apply(
            {"params": params}, pixel_BYXC, method="encode"
        )
        return encoded

    def decode(self, params: Parameters, latent_BYXZ: jax.Array) -> jax.Array:
        """Images of latents, sampled or means.

        Args:
          params: as `init` makes them.
          latent_BYXZ: float32 [B, y, x, latent_channels].

        Returns:
          float32 [B, y * downsampling, x * downsampling, 3], [-1, 1] but not clipped.

        Raises:
          ValueError: if latents have another shape.
        """
        wanted = self.config.latent_channels
        if latent_BYXZ.ndim != 4 or latent_BYXZ.shape[-1] != wanted:
            raise ValueError(
                f"latents have shape {list(latent_BYXZ.shape)} but must be [images, "
                f"rows, columns, {wanted}]; put the channels last."
            )
        pixel: Any = self.module.apply({"params": params}, latent_BYXZ, method="decode")
        return pixel


def sample_latent(key: jax.Array, latent: LatentDistribution) -> jax.Array:
    """mean + exp(log_variance / 2) * noise, float32 [B, y, x, Z]."""
    noise = jax.random.normal(key, latent.mean_BYXZ.shape)
    return latent.mean_BYXZ + jnp.exp(0.5 * latent.log_variance_BYXZ) * noise
