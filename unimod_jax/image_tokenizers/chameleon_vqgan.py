"""Chameleon's image tokenizer: a VQ-GAN with 8,192 codes (2405.09818, 2.1).

The architecture is taming-transformers' (2012.09841), widened to 512 x 512 pixels and
retrained by Make-A-Scene's recipe (2203.13131); the weights are `vqgan.ckpt` of the
Chameleon release. An image of 512 x 512 pixels is 32 x 32 codes.
"""

import dataclasses

import jax
from flax import linen as nn

from unimod_jax.image_tokenizers.codebook import Codebook
from unimod_jax.image_tokenizers.convolution import Pointwise
from unimod_jax.image_tokenizers.image_tokenizer import ImageTokenizer
from unimod_jax.image_tokenizers.ladder import Decoder, Encoder, Ladder


@dataclasses.dataclass(frozen=True)
class ChameleonVqganConfig:
    """Sizes; the defaults are the release's (`vqgan.yaml`).

    Attributes:
      channels: width of each level, finest first: 128 times 1, 1, 2, 2, 4.
      blocks: residual blocks of an encoder level; a decoder level has one more.
      latent_channels: channels between ladder and quantiser.
      code_width: values of a code vector.
      num_codes: code vectors.
    """

    channels: tuple[int, ...] = (128, 128, 256, 256, 512)
    blocks: int = 2
    latent_channels: int = 256
    code_width: int = 256
    num_codes: int = 8192


class ChameleonVqgan(nn.Module):
    """Encoder, quantiser and decoder.

    Attributes:
      config: the sizes.
    """

    config: ChameleonVqganConfig

    def setup(self) -> None:
        config = self.config
        levels = len(config.channels)
        down = Ladder(config.channels, (config.blocks,) * levels)
        up = Ladder(config.channels, (config.blocks + 1,) * levels)
        self.encoder = Encoder(down, config.latent_channels)
        self.quant_conv = Pointwise(config.code_width)
        self.codebook = Codebook(config.num_codes, config.code_width)
        self.post_quant_conv = Pointwise(config.latent_channels)
        self.decoder = Decoder(up)

    def latent(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> [B, y, x, code_width], not yet quantised."""
        return self.quant_conv(self.encoder(pixel_BYXC))

    def encode(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> int32 [B, y, x]."""
        return self.codebook.nearest(self.latent(pixel_BYXC))

    def decode(self, code_BYX: jax.Array) -> jax.Array:
        """int32 [B, y, x] -> [B, Y, X, 3]."""
        return self.decoder(self.post_quant_conv(self.codebook.look_up(code_BYX)))

    def reconstruct(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> [B, Y, X, 3] through the codes."""
        return self.decode(self.encode(pixel_BYXC))


DEFAULT = ChameleonVqganConfig()


def chameleon_vqgan_tokenizer(config: ChameleonVqganConfig = DEFAULT) -> ImageTokenizer:
    """The tokenizer of these sizes: 8,192 codes, 16 x 16 pixels each, by default."""
    downsampling = 2 ** (len(config.channels) - 1)
    return ImageTokenizer(ChameleonVqgan(config), config.num_codes, downsampling)
