"""Emu3 (2409.18869): a Llama block, published in three sets of names.

The original files (BAAI/Emu3-Chat, -Gen, -Stage1) hold the language model alone; those
for transformers (-hf) hold the image tokenizer too. Their tensors are called as the
modules of transformers are now, or as in its first release, whose names transformers 5
writes again. The rotary pairs are (first half, second half) in all, as ours.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unimod_jax.convert.layer_table import (
    Ends,
    attention,
    ends,
    norms_of_llama,
    require,
    swiglu,
)
from unimod_jax.convert.published_config import Fields
from unimod_jax.convert.weight_map import WeightMap
from unimod_jax.models import ModelConfig
from unimod_jax.presets import preset


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """How a layout calls things.

    Attributes:
      model: in front of layers, embedding and final norm.
      head: in front of the head.
    """

    model: str
    head: str


ORIGINAL = Prefixes("model.", "")
HUGGING_FACE = Prefixes("model.text_model.", "")
OLD_HUGGING_FACE = Prefixes("text_model.model.", "text_model.")


def weights(config: ModelConfig, prefixes: Prefixes = ORIGINAL) -> WeightMap:
    """The table of Emu3's language model.

    Args:
      config: of the model.
      prefixes: of the layout.

    Raises:
      ConversionError: for a config that is not Llama's architecture.
    """
    llama = {"norm": "rms", "feed_forward": "swiglu", "biases": False}
    require(config, "Emu3", norm_order="pre", qk_norm="none", **llama)
    model = prefixes.model
    names = Ends(
        f"{model}embed_tokens.weight", f"{model}norm", f"{prefixes.head}lm_head"
    )
    table = ends(config, names)
    for layer in range(config.num_layers):
        name = f"{model}layers.{layer}"
        table |= attention(layer, config, f"{name}.self_attn")
        table |= swiglu(layer, config, f"{name}.mlp")
        table |= norms_of_llama(layer, config, name)
    return table


def model_config(published: Mapping[str, Any]) -> ModelConfig:
    """The architecture that Emu3's config.json describes, of either layout.

    Dropout and compute dtype are the preset's.

    Raises:
      ConversionError: for a field that is missing, or has a value that no model of ours
        computes.
    """
    text = published.get("text_config") or published
    return Fields(text, "Emu3").llama(preset("emu3").model)
