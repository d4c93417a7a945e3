"""Phi-1.5 (2309.05463), from which Show-o starts, in its Hugging Face layout.

The rotary pairs of its files are (first half, second half) of the dimensions that turn,
as ours are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unimod_jax.convert.layer_table import (
    Ends,
    MutableTable,
    attention,
    ends,
    linear,
    norm,
    require,
    tower,
)
from unimod_jax.convert.published_config import Fields
from unimod_jax.convert.weight_map import WeightMap
from unimod_jax.models import ModelConfig
from unimod_jax.presets import preset

_VOCABULARY_SIZE = 51_200


def weights(config: ModelConfig, prefix: str = "") -> WeightMap:
    """The table of Phi, with layer norms of queries and keys where the config has them.

    Args:
      config: of the model: `phi_1_5()`, or a Show-o preset's.
      prefix: in front of every name.

    Raises:
      ConversionError: for a config that is not Phi's architecture.
    """
    require(
        config,
        "Phi",
        norm_order="parallel",
        norm="layer",
        feed_forward="gelu",
        biases=True,
    )
    names = Ends(
        f"{prefix}model.embed_tokens.weight",
        f"{prefix}model.final_layernorm",
        f"{prefix}lm_head",
    )
    table = ends(config, names)
    for layer in range(config.num_layers):
        table |= _layer(layer, config, f"{prefix}model.layers.{layer}")
    return table


def _layer(layer: int, config: ModelConfig, name: str) -> MutableTable:
    path, width, hidden = tower(layer, "feed_forward"), config.width, config.hidden
    table = attention(layer, config, f"{name}.self_attn", output="dense")
    table |= linear((*path, "up"), f"{name}.mlp.fc1", (width, hidden), True)
    table |= linear((*path, "down"), f"{name}.mlp.fc2", (hidden, width), True)
    table |= norm(
        tower(layer, "attention_norm"), f"{name}.input_layernorm", (config.width,), True
    )
    if config.qk_norm == "layer":
        for ours, theirs in (("query", "q"), ("key", "k")):
            table |= norm(
                tower(layer, f"{ours}_norm"),
                f"{name}.self_attn.{theirs}_layernorm",
                (config.head_dim,),
                True,
            )
    return table


def phi_1_5() -> ModelConfig:
    """The architecture of microsoft/phi-1_5: Show-o's, less its norms and rows."""
    return dataclasses.replace(
        preset("show_o_512").model, qk_norm="none", vocabulary_size=_VOCABULARY_SIZE
    )


def model_config(published: Mapping[str, Any]) -> ModelConfig:
    """The architecture that Phi's config.json describes.

    Raises:
      ConversionError: for a field that is missing, or has a value that no model of ours
        computes.
    """
    fields = Fields(published, "Phi")
    fields.require(hidden_act="gelu_new")
    heads, width = fields.size("num_attention_heads"), fields.size("hidden_size")
    return dataclasses.replace(
        phi_1_5(),
        width=width,
        num_layers=fields.size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.size("num_key_value_heads", heads),
        head_dim=width // heads,
        feed_forward_hidden=fields.size("intermediate_size"),
        norm_epsilon=fields.number("layer_norm_eps", 1e-5),
        qk_norm="layer" if published.get("qk_layernorm") else "none",
        rotary_theta=fields.rotary_theta(10_000.0),
        rotary_share=fields.rotary("partial_rotary_factor", 0.5),
        tied_head=bool(published.get("tie_word_embeddings", False)),
        vocabulary_size=fields.size("vocab_size"),
    )
