"""A VAE as diffusers publishes it, for example `stabilityai/sd-vae-ft-mse`.

diffusers counts the levels of the decoder from the coarsest, and has linear layers in
attention. Many published files, from before it changed the names of those, have query,
key, value and proj_attn, which diffusers renames while it reads: OLDER_NAMES. The sizes
are read off the tensors' shapes.
"""

import re
from pathlib import Path
from typing import Any

from unimod_jax.convert.check_tensors import check_tensors
from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.read_weights import read_parameters
from unimod_jax.convert.tensor_files import TensorFiles, open_tensor_files
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


def read_autoencoder(path: Path | str) -> tuple[AutoencoderKl, dict[str, Any]]:
    """The autoencoder of a file or folder, and its parameters in float32.

    Raises:
      ConversionError: for files that hold none, not all of it, or cannot be read.
    """
    files = open_tensor_files(path)
    config = _config_of(files)
    older = any(".proj_attn." in name for name in files.names)
    table = weight_map(config, OLDER_NAMES if older else NAMES)
    check_tensors(files, [table])
    return AutoencoderKl(config), read_parameters(files, table)


def _config_of(files: TensorFiles) -> AutoencoderKlConfig:
    found = r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight"
    places = {
        (int(match[1]), int(match[2])): files.shape(name)[0]
        for name in files.names
        if (match := re.fullmatch(found, name))
    }
    latents = "post_quant_conv.weight"
    levels = len({level for level, _ in places})
    blocks = len({block for _, block in places})
    whole = {(level, block) for level in range(levels) for block in range(blocks)}
    if latents not in files or not places or set(places) != whole:
        raise ConversionError(
            f"{files.path} holds no autoencoder as diffusers publishes it "
            f"({', '.join(files.names[:3])}, ...); give the folder `vae`, or that of "
            "stabilityai/sd-vae-ft-mse."
        )
    channels = tuple(places[level, 0] for level in range(levels))
    return AutoencoderKlConfig(channels, blocks, files.shape(latents)[0])


def _decoder_levels(levels: int) -> Renaming:
    """The decoder's levels, counted from the coarsest."""
    renaming: list[tuple[str, str]] = []
    for level in range(levels):
        block = f"decoder.up_blocks.{levels - 1 - level}"
        residual = rf"^decoder/level_{level}/residual_(\d+)"
        renaming.append((residual, rf"{block}.resnets.\1"))
        renaming.append((rf"^decoder/doubling_{level}/", f"{block}.upsamplers.0.conv/"))
    return tuple(renaming)
