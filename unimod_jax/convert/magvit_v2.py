"""Show-o's image tokenizer: `showlab/magvitv2`.

The 1 x 1 convolutions around the quantiser belong to the encoder and the decoder there.
The file also holds the quantiser's table of signs and its powers of two, which follow
from the number of bits: they are no parameters here, and `derived_tensors` gives them.
"""

import numpy as np

from unimod_jax.convert.tokenizer_layout import TAMING, TokenizerLayout
from unimod_jax.convert.weight_map import WeightMap
from unimod_jax.image_tokenizers import MagvitV2Config, magvit_v2_tokenizer

LAYOUT = TokenizerLayout(
    (
        (r"^quant_conv", r"encoder.quant_conv"),
        (r"^post_quant_conv", r"decoder.post_quant_conv"),
        *TAMING,
    )
)


def weight_map(config: MagvitV2Config | None = None) -> WeightMap:
    """Every tensor that is a parameter; None is the release's sizes."""
    tokenizer = magvit_v2_tokenizer(config or MagvitV2Config())
    return LAYOUT.weight_map(tokenizer.parameter_shapes())


def derived_tensors(config: MagvitV2Config | None = None) -> dict[str, np.ndarray]:
    """The file's other tensors, by name: float32 [codes, bits] and int64 [bits].

    Row i of the first is code i as signs, its most significant bit first.
    """
    bits = (config or MagvitV2Config()).bits
    power = 2 ** np.arange(bits - 1, -1, -1, dtype=np.int64)
    bit = (np.arange(2**bits)[:, None] & power) > 0
    return {
        "quantize.embedding": np.where(bit, 1, -1).astype(np.float32),
        "quantize.power_vals": power,
    }
