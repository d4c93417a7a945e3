"""Emu3's image tokenizer, in its own repository and within transformers' checkpoints.

`BAAI/Emu3-VisionTokenizer` keeps the names of taming-transformers. transformers'
Emu3 (`BAAI/Emu3-Chat-hf`, `BAAI/Emu3-Gen-hf`) renames the modules, moves the norms of
attention out of it, and has linear layers for its 1 x 1 convolutions.
"""

from unimod_jax.convert.tokenizer_layout import TAMING, Renaming, TokenizerLayout
from unimod_jax.convert.weight_map import TRANSPOSED, WeightMap
from unimod_jax.image_tokenizers import MovqganConfig, movqgan_tokenizer

_THROUGH_TIME: Renaming = (
    (r"^(encoder|decoder)/ladder", r"\1"),
    (r"/time_residual_(\d+)/conv_(\d)", r"/time_res_stack.\1.conv\2.conv"),
    (r"/time_residual_(\d+)", r"/time_res_stack.\1"),
    (r"/time_(halving|doubling)_(\d+)", r"/time_conv.\2.conv.conv"),
    (r"quant_conv/", r"quant_conv.conv/"),
    (r"/code_scale", r".conv_y"),
    (r"/code_shift", r".conv_b"),
    (r"/group_norm", r".norm_layer"),
)
_MOVED: Renaming = (
    (r"^encoder/level_", r"encoder.down_block/level_"),
    (r"^decoder/level_", r"decoder.up_block/level_"),
    (r"^encoder/halving_", r"encoder.down_block/halving_"),
    (r"^decoder/doubling_", r"decoder.up_block/doubling_"),
    (r"_block/level_(\d+)/attention_(\d+)/norm", r"_block/level_\1/attn_norms.\2"),
    (r"/middle/attention_0/norm", r".middle_block.attn_norm"),
    (r"/middle/attention_0", r".middle_block.attn_1"),
    (r"/middle/residual_0", r".middle_block.block_1"),
    (r"/middle/residual_1", r".middle_block.block_2"),
    (r"/level_(\d+)/residual_(\d+)", r"/level_\1.block.\2"),
    (r"/level_(\d+)/attention_(\d+)", r"/level_\1.attn.\2"),
    (r"down_block/(level|halving)_(\d+)", r"down_block.down.\2/\1"),
    (r"up_block/(level|doubling)_(\d+)", r"up_block.up.\2/\1"),
    (r"/level", r""),
    (r"/halving", r".downsample.conv"),
    (r"/doubling", r".upsample.conv"),
    (r"/(q)uery|/(k)ey|/(v)alue", r".\1\2\3_proj"),
    (r"/output", r".out_proj"),
)
ORIGINAL = TokenizerLayout((*_THROUGH_TIME, *TAMING))
TRANSFORMERS = TokenizerLayout(
    (*_THROUGH_TIME, *_MOVED, *TAMING, (r"^", "model.vqmodel.")), TRANSPOSED
)


def weight_map(
    config: MovqganConfig | None = None, layout: TokenizerLayout = ORIGINAL
) -> WeightMap:
    """Every tensor of encoder, quantiser and decoder, buffers included.

    Args:
      config: None is the release's sizes.
      layout: ORIGINAL (`BAAI/Emu3-VisionTokenizer`) or TRANSFORMERS ("model.vqmodel."
        of Emu3ForConditionalGeneration).
    """
    tokenizer = movqgan_tokenizer(config or MovqganConfig())
    return layout.weight_map(tokenizer.parameter_shapes())
