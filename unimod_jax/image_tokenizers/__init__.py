"""Learned image tokenizers of the released models: pixels to codes, codes to pixels.

The suffix letters of this room, which knows no tokens yet:

    B  images of a batch            C  channels
    Y  rows of pixels or places     Z  values of a latent or code vector
    X  columns                      M  moments in time (frames)
    N  all places of an image       K  codes

Reading order: `convolution`, `ladder`, `codebook`, `image_tokenizer`, then
`chameleon_vqgan`, `magvit_v2`, `movqgan` and `autoencoder_kl`.
"""

from unimod_jax.image_tokenizers.autoencoder_kl import (
    AutoencoderKl,
    AutoencoderKlConfig,
    LatentDistribution,
    sample_latent,
)
from unimod_jax.image_tokenizers.chameleon_vqgan import (
    ChameleonVqganConfig,
    chameleon_vqgan_tokenizer,
)
from unimod_jax.image_tokenizers.image_tokenizer import ImageTokenizer
from unimod_jax.image_tokenizers.ladder import Ladder
from unimod_jax.image_tokenizers.magvit_v2 import MagvitV2Config, magvit_v2_tokenizer
from unimod_jax.image_tokenizers.movqgan import MovqganConfig, movqgan_tokenizer

__all__ = [
    "ImageTokenizer",
    "Ladder",
    "ChameleonVqganConfig",
    "chameleon_vqgan_tokenizer",
    "MagvitV2Config",
    "magvit_v2_tokenizer",
    "MovqganConfig",
    "movqgan_tokenizer",
    "AutoencoderKl",
    "AutoencoderKlConfig",
    "LatentDistribution",
    "sample_latent",
]
