"""Chameleon's image tokenizer: of the release whole, of transformers' files in part.

The release's `tokenizer/vqgan.ckpt` is a PyTorch checkpoint whose "state_dict" has
these names. taming-transformers' training wrote it, so it may hold the training loss
beside them ("loss."). transformers' Chameleon (`facebook/chameleon-7b`) leaves out the
decoder: it reads images and cannot make them.
"""

from unimod_jax.convert.tokenizer_layout import TAMING, TokenizerLayout
from unimod_jax.convert.weight_map import WeightMap
from unimod_jax.image_tokenizers import ChameleonVqganConfig, chameleon_vqgan_tokenizer

ORIGINAL = TokenizerLayout(TAMING)
TRANSFORMERS = TokenizerLayout((*TAMING, (r"^", "model.vqmodel.")))


def weight_map(config: ChameleonVqganConfig | None = None) -> WeightMap:
    """Every tensor of encoder, quantiser and decoder; None is the release's sizes."""
    tokenizer = chameleon_vqgan_tokenizer(config or ChameleonVqganConfig())
    return ORIGINAL.weight_map(tokenizer.parameter_shapes())


def encoder_weight_map(config: ChameleonVqganConfig | None = None) -> WeightMap:
    """The tensors of ChameleonForConditionalGeneration, without our "decoder".

    `ImageTokenizer.encode` needs no others.
    """
    tokenizer = chameleon_vqgan_tokenizer(config or ChameleonVqganConfig())
    shapes = dict(tokenizer.parameter_shapes())
    del shapes["decoder"]
    return TRANSFORMERS.weight_map(shapes)
