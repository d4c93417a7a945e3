"""A VAE as diffusers publishes it, for example `stabilityai/sd-vae-ft-mse`.

diffusers counts the levels of the decoder from the coarsest, and has linear layers in
attention. Many published files, from before it changed the names of those, have query,
key, value and proj_attn, which diffusers renames while it reads: OLDER_NAMES.
"""

from unimod_jax.convert.tokenizer_layout import Renaming, TokenizerLayout
from unimod_jax.convert.weight_map import TRANSPOSED, WeightMap
from unimod_jax.image_tokenizers import AutoencoderKl, AutoencoderKlConfig

_MODULES: Renaming = (
    (r"^encoder/level_(\d+)/residual_(\d+)", r"encoder.down_blocks.\1.resnets.\2"),
    (r"^encoder/halving_(\d+)", r"encoder.down_blocks.\1.downsamplers.0.conv"),
    (r"/middle/residual_(\d)", r".mid_block.resnets.\1"),
    (r"/middle/attention_0/norm", r".mid_block.attentions.0.group_norm"),
    (r"/middle/attention_0", r".mid_block.attentions.0"),
    (r"/(norm|conv)_(\d)", r".\1\2"),
    (r"/shortcut", r".conv_shortcut"),
    (r"/norm_out", r".conv_norm_out"),
)
NAMES: Renaming = (
    (r"/(q)uery|/(k)ey|/(v)alue", r".to_\1\2\3"),
    (r"/output", r".to_out.0"),
)
OLDER_NAMES: Renaming = ((r"/output", r".proj_attn"),)


def weight_map(
    config: AutoencoderKlConfig | None = None, attention_names: Renaming = NAMES
) -> WeightMap:
    """Every tensor of encoder and decoder.

    Args:
      config: None is the sizes of Stable Diffusion 1 and 2.
      attention_names: NAMES, or OLDER_NAMES for query, key, value and proj_attn.
    """
    config = config or AutoencoderKlConfig()
    layout = TokenizerLayout(
        (*_decoder_levels(len(config.channels)), *_MODULES, *attention_names),
        TRANSPOSED,
    )
    return layout.weight_map(AutoencoderKl(config).parameter_shapes())


def _decoder_levels(levels: int) -> Renaming:
    """The decoder's levels, counted from the coarsest."""
    renaming: list[tuple[str, str]] = []
    for level in range(levels):
        block = f"decoder.up_blocks.{levels - 1 - level}"
        residual = rf"^decoder/level_{level}/residual_(\d+)"
        renaming.append((residual, rf"{block}.resnets.\1"))
        renaming.append((rf"^decoder/doubling_{level}/", f"{block}.upsamplers.0.conv/"))
    return tuple(renaming)
