"""Show-o's image tokenizer: MAGVIT-v2's lookup-free quantisation, 13 bits per code.

The quantiser is MAGVIT-v2's (2310.05737, 3.1), for single images and without its 3-D
convolutions (Show-o, 2408.12528, 3.1); the weights are `showlab/magvitv2`. There is no
codebook to search: the sign of each of 13 channels is a bit, so 8,192 codes. An image
of 512 x 512 pixels is 32 x 32 codes, one of 256 x 256 is 16 x 16.
"""

import dataclasses

import jax
from flax import linen as nn

from unimod_jax.image_tokenizers.codebook import bits_to_code, code_to_bits
from unimod_jax.image_tokenizers.convolution import Pointwise
from unimod_jax.image_tokenizers.image_tokenizer import ImageTokenizer
from unimod_jax.image_tokenizers.ladder import Decoder, Encoder, Ladder


@dataclasses.dataclass(frozen=True)
class MagvitV2Config:
    """Sizes; the defaults are the release's, in which the two ladders differ.

    Attributes:
      encoder: widths 128 times 1, 2, 2, 4, 4.
      decoder: widths 128 times 1, 1, 2, 2, 4; it halves as often as the encoder.
      bits: channels between the ladders; there are 2^bits codes.
    """

    encoder: Ladder = Ladder((128, 256, 256, 512, 512), (4, 3, 4, 3, 4))
    decoder: Ladder = Ladder((128, 128, 256, 256, 512), (4, 4, 3, 4, 3))
    bits: int = 13

    def __post_init__(self) -> None:
        """Raises ValueError for ladders that do not undo each other."""
        if self.encoder.downsampling != self.decoder.downsampling:
            raise ValueError(
                f"the encoder shrinks by {self.encoder.downsampling} but the decoder "
                f"enlarges by {self.decoder.downsampling}; give both as many levels."
            )


class MagvitV2(nn.Module):
    """Encoder, signs, and decoder.

    Attributes:
      config: the sizes.
    """

    config: MagvitV2Config

    def setup(self) -> None:
        bits = self.config.bits
        self.encoder = Encoder(self.config.encoder, bits)
        self.quant_conv = Pointwise(bits)
        self.post_quant_conv = Pointwise(bits)
        self.decoder = Decoder(self.config.decoder)

    def latent(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> [B, y, x, bits], whose signs are the code."""
        return self.quant_conv(self.encoder(pixel_BYXC))

    def encode(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> int32 [B, y, x]."""
        return bits_to_code(self.latent(pixel_BYXC))

    def decode(self, code_BYX: jax.Array) -> jax.Array:
        """int32 [B, y, x] -> [B, Y, X, 3]."""
        bit_BYXZ = code_to_bits(code_BYX, self.config.bits)
        return self.decoder(self.post_quant_conv(bit_BYXZ))

    def reconstruct(self, pixel_BYXC: jax.Array) -> jax.Array:
        """[B, Y, X, 3] -> [B, Y, X, 3] through the codes."""
        return self.decode(self.encode(pixel_BYXC))


DEFAULT = MagvitV2Config()


def magvit_v2_tokenizer(config: MagvitV2Config = DEFAULT) -> ImageTokenizer:
    """The tokenizer of these sizes: 8,192 codes, 16 x 16 pixels each, by default."""
    return ImageTokenizer(MagvitV2(config), 2**config.bits, config.encoder.downsampling)
