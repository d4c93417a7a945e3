"""Show-o (2408.12528): Phi with norms of queries and keys, behind the prefix `showo.`.

Its training began from Phi-1.5 (showlab/Show-o, configs/showo_pretraining_stage1.yaml:
`load_from_showo: False`): models/modeling_showo.py loads Phi's weights and calls
`resize_token_embeddings(58498)`, models/phi.py turns `qk_layernorm` on. So all rows of
Phi stay, also the 905 that its tokenizer has no use for, which become the markers and
the first image codes; rows behind them, and norms, are fresh: ones and zeros, and rows
as our initialisers draw them, with deviations of 0.02 and, in the head, 0.022 (there
0.02 in both).

The variants with a CLIP encoder (a frozen network of its own, not in these files) read
its features through a projector of two linear maps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from unimod_jax.convert import phi
from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.layer_table import linear
from unimod_jax.convert.published_config import Fields
from unimod_jax.convert.weight_map import WeightMap
from unimod_jax.models import ModelConfig
from unimod_jax.mot import project
from unimod_jax.presets import preset

CLIP_WIDTH = 1024
"""Width of CLIP ViT-L/14's features (openai/clip-vit-large-patch14-336)."""

PROJECTOR_PREFIX = "mm_projector."

FILE_NAME = "pytorch_model.safetensors"
"""What its weights are called (models/modeling_utils.py)."""


def weights(config: ModelConfig) -> WeightMap:
    """The table of Show-o's language model.

    Raises:
      ConversionError: for a config that is not Phi's architecture.
    """
    return phi.weights(config, "showo.")


def projector_weights(width: int, clip_width: int = CLIP_WIDTH) -> WeightMap:
    """The table of the projector of the CLIP variants: `inward` and `outward`.

    Args:
      width: D of the language model.
      clip_width: of the features.
    """
    names = (("inward", "0", clip_width), ("outward", "2", width))
    table: dict = {}
    for ours, theirs, fan_in in names:
        table |= linear((ours,), f"{PROJECTOR_PREFIX}{theirs}", (fan_in, width), True)
    return table


def projected(params: Mapping[str, Any], features_BNP: jax.Array) -> jax.Array:
    """CLIP's features as tokens of the language model: linear, GELU (exact), linear.

    Args:
      params: read with `projector_weights`.
      features_BNP: one row of features per patch.

    Returns:
      [B, N, D], in the dtype of the features.
    """
    hidden = _affine(params["inward"], features_BNP)
    return _affine(params["outward"], jax.nn.gelu(hidden, approximate=False))


def _affine(params: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    bias = params["bias"].astype(x.dtype)
    return project(x, params["kernel"]) + jnp.expand_dims(bias, (0, 1))


def model_config(published: Mapping[str, Any]) -> ModelConfig:
    """The architecture of Show-o's config.json.

    As released it tells only the vocabulary, and refers to Phi-1.5 for all sizes. Where
    it holds Phi's fields as well, those count. Norms of queries and keys are there
    whatever it says: Show-o's code forces them.

    Raises:
      ConversionError: for a field that is no number.
    """
    if "hidden_size" in published:
        return dataclasses.replace(phi.model_config(published), qk_norm="layer")
    rows = Fields(published, "Show-o").size("vocab_size")
    return dataclasses.replace(preset("show_o_512").model, vocabulary_size=rows)


def begun_from(phi_model: ModelConfig, rows: int) -> ModelConfig:
    """The architecture of a Show-o whose training begins from a Phi.

    Args:
      phi_model: Phi's.
      rows: vocabulary rows that text, markers and image codes need.

    Raises:
      ConversionError: if those are fewer than Phi has.
    """
    if rows < phi_model.vocabulary_size:
        raise ConversionError(
            f"Phi has {phi_model.vocabulary_size} vocabulary rows, but text tokenizer, "
            f"markers and image codes need only {rows}, and no row can be dropped; "
            "give Phi's own tokenizer and the image tokenizer that Show-o has."
        )
    return dataclasses.replace(phi_model, qk_norm="layer", vocabulary_size=rows)
