"""Chameleon (2405.09818) as published for transformers (facebook/chameleon-7b, -30b).

Queries and keys have layer norms with weights of their own for each head, because the
shards it was trained in had. In files of models that normalise behind each branch
(swin), the two norms keep the names of those before it. The rotary pairs are (first
half, second half), as ours; `chameleon_shards` reads the original files.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unimod_jax.convert.layer_table import (
    Ends,
    attention,
    ends,
    norm,
    norms_of_llama,
    require,
    swiglu,
    tower,
)
from unimod_jax.convert.published_config import Fields
from unimod_jax.convert.weight_map import WeightMap
from unimod_jax.models import ModelConfig
from unimod_jax.presets import preset

_NAMES = Ends("model.embed_tokens.weight", "model.norm", "lm_head")


def weights(config: ModelConfig) -> WeightMap:
    """The table of Chameleon's language model.

    Args:
      config: of the model; both orders of norms have the same tensors.

    Raises:
      ConversionError: for a config that is not Chameleon's architecture.
    """
    check_architecture(config)
    c = config
    table = ends(c, _NAMES)
    for layer in range(c.num_layers):
        name = f"model.layers.{layer}"
        table |= attention(layer, c, f"{name}.self_attn")
        table |= swiglu(layer, c, f"{name}.mlp")
        table |= norms_of_llama(layer, c, name)
        for ours, theirs, heads in (
            ("query_norm", "q_norm", c.num_heads),
            ("key_norm", "k_norm", c.num_kv_heads),
        ):
            path, shape = tower(layer, ours), (heads, c.head_dim)
            table |= norm(path, f"{name}.self_attn.{theirs}", shape, True)
    return table


def check_architecture(config: ModelConfig) -> None:
    """Refuses what released Chameleon is not; MoT's own sizes share their head norms.

    Raises:
      ConversionError: naming the first field that differs.
    """
    llama = {"norm": "rms", "feed_forward": "swiglu", "biases": False}
    require(config, "Chameleon", qk_norm="layer_per_head", **llama)


def model_config(published: Mapping[str, Any]) -> ModelConfig:
    """The architecture that Chameleon's config.json describes.

    Dropout and compute dtype are the preset's: the 34B was trained without dropout.

    Raises:
      ConversionError: for a field that is missing, or has a value that no model of ours
        computes.
    """
    released = preset("chameleon_7b_released").model
    model = Fields(published, "Chameleon").llama(released)
    if not published.get("swin_norm", False):
        return model
    larger = preset("chameleon_34b_released").model
    return dataclasses.replace(
        model,
        norm_order=larger.norm_order,
        residual_dropout=larger.residual_dropout,
    )
