"""Chameleon's original layout: one file per device that shared the model.

It differs from ours in three ways. Each device saved its heads, its part of the hidden
units and of the vocabulary, and all norms. Its query and key norms have one weight per
device, which serves all heads there. And its rotary pairs are neighbours (2i, 2i + 1),
so rows of queries and keys, and their norms, change places within each head.

Meta publishes it as `consolidated.NN.pth`. Those are pickles, which are refused: save
each, where you trust it, with `safetensors.torch.save_file` under the same name and
tensor names, as `consolidated.NN.safetensors`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from unimod_jax.convert.chameleon import check_architecture
from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.layer_table import EMBEDDING, FINAL_NORM, HEAD, tower
from unimod_jax.convert.published_config import Fields
from unimod_jax.convert.weight_map import (
    AS_IS,
    TRANSPOSED,
    FileTensor,
    JoinedTensors,
    Rearrangement,
    Table,
)
from unimod_jax.models import ModelConfig
from unimod_jax.models.parameter_path import Path
from unimod_jax.presets import preset
from unimod_jax.presets.chameleon import VOCABULARY_SIZE


def weights(config: ModelConfig, num_shards: int) -> Table:
    """The table of Chameleon's language model in its original shards.

    Args:
      config: of the model.
      num_shards: how many devices shared it: 1 for the 7B, 4 for the 34B.

    Raises:
      ConversionError: for a config that is not Chameleon's, or that so many devices
        cannot share.
    """
    check_architecture(config)
    for name in ("num_kv_heads", "hidden", "width", "vocabulary_size"):
        if getattr(config, name) % num_shards:
            raise ConversionError(
                f"{num_shards} shards cannot share {name} {getattr(config, name)}; "
                "keep the files of one model in a directory."
            )
    c = config
    joined = functools.partial(_joined, num_shards)
    v, d = c.vocabulary_size, c.width
    table: dict[Path, JoinedTensors] = {
        EMBEDDING: joined("tok_embeddings", (v, d // num_shards), AS_IS, 1),
        (*HEAD, "kernel"): joined("output", (v // num_shards, d), TRANSPOSED, 1),
        (*FINAL_NORM, "scale"): joined("norm", (d,), AS_IS, None),
    }
    for layer in range(c.num_layers):
        table |= _layer(layer, c, num_shards)
    return table


def _layer(layer: int, c: ModelConfig, num_shards: int) -> dict[Path, JoinedTensors]:
    name, d, e, f = f"layers.{layer}", c.width, c.head_dim, c.hidden // num_shards
    heads, kv_heads = c.num_heads // num_shards, c.num_kv_heads // num_shards
    attention, feed = f"{name}.attention", f"{name}.feed_forward"
    joined = functools.partial(_joined, num_shards)

    def at(component: str, *names: str) -> Path:
        return (*tower(layer, component), *names)

    def turned(theirs: str, count: int) -> JoinedTensors:
        shape, order = (count * e, d), _neighbours_to_halves(count, e)
        return joined(f"{attention}.{theirs}", shape, order, 1)

    table = {
        at("query", "kernel"): turned("wq", heads),
        at("key", "kernel"): turned("wk", kv_heads),
        at("value", "kernel"): joined(
            f"{attention}.wv", (kv_heads * e, d), TRANSPOSED, 1
        ),
        at("output", "kernel"): joined(
            f"{attention}.wo", (d, heads * e), TRANSPOSED, 0
        ),
        at("feed_forward", "gate", "kernel"): joined(
            f"{feed}.w1", (f, d), TRANSPOSED, 1
        ),
        at("feed_forward", "up", "kernel"): joined(f"{feed}.w3", (f, d), TRANSPOSED, 1),
        at("feed_forward", "down", "kernel"): joined(
            f"{feed}.w2", (d, f), TRANSPOSED, 0
        ),
        at("attention_norm", "scale"): joined(
            f"{name}.attention_norm", (d,), AS_IS, None
        ),
        at("feed_forward_norm", "scale"): joined(f"{name}.ffn_norm", (d,), AS_IS, None),
    }
    for ours, theirs, count in (("query", "q", heads), ("key", "k", kv_heads)):
        order = _shared_by_heads(count, e)
        for scale, weight in (("scale", "weight"), ("bias", "bias")):
            whole = f"{attention}.{theirs}_normalization"
            table[at(f"{ours}_norm", scale)] = joined(whole, (e,), order, 0, weight)
    return table


def _joined(
    num_shards: int,
    name: str,
    shape: tuple[int, ...],
    rearrangement: Rearrangement,
    axis: int | None,
    kind: str = "weight",
) -> JoinedTensors:
    """The tensor of this name and shape in each shard."""
    parts = (
        FileTensor(f"{shard:02}/{name}.{kind}", shape, rearrangement)
        for shard in range(num_shards)
    )
    return JoinedTensors(tuple(parts), axis)


def _neighbours_to_halves(num_heads: int, head_dim: int) -> Rearrangement:
    """Transposes, and moves pairs (2i, 2i + 1) of each head to (i, i + E / 2)."""
    half = head_dim // 2

    def to_ours(weight: np.ndarray) -> np.ndarray:
        pairs = weight.reshape(num_heads, half, 2, -1).transpose(0, 2, 1, 3)
        return pairs.reshape(num_heads * head_dim, -1).transpose(1, 0)

    def to_theirs(kernel: np.ndarray) -> np.ndarray:
        halves = kernel.transpose(1, 0).reshape(num_heads, 2, half, -1)
        return halves.transpose(0, 2, 1, 3).reshape(num_heads * head_dim, -1)

    return Rearrangement(to_ours, to_theirs)


def _shared_by_heads(num_heads: int, head_dim: int) -> Rearrangement:
    """A norm's vector, its pairs moved, for each head of the device."""
    half = head_dim // 2

    def to_ours(vector: np.ndarray) -> np.ndarray:
        moved = vector.reshape(half, 2).transpose(1, 0).reshape(1, head_dim)
        return np.broadcast_to(moved, (num_heads, head_dim))

    def to_theirs(per_head: np.ndarray) -> np.ndarray:
        if (per_head != per_head[:1]).any():
            raise ConversionError(
                "the query and key norms of the heads of one shard differ, as training "
                "makes them, but the original layout has one for all; export in the "
                "layout for transformers."
            )
        return per_head[0].reshape(2, half).transpose(1, 0).reshape(head_dim)

    return Rearrangement(to_ours, to_theirs)


def model_config(published: Mapping[str, Any]) -> ModelConfig:
    """The architecture that Chameleon's original params.json describes.

    Args:
      published: params.json; sizes stand under "model".

    Raises:
      ConversionError: for a field that is missing, or has a value that no model of ours
        computes.
    """
    fields = Fields({**published, **(published.get("model") or {})}, "Chameleon")
    fields.require(qk_normalization=True)
    swin = bool(fields.published.get("swin_norm", False))
    base = preset("chameleon_34b_released" if swin else "chameleon_7b_released").model
    width, heads = fields.size("dim"), fields.size("n_heads")
    return dataclasses.replace(
        base,
        width=width,
        num_layers=fields.size("n_layers"),
        num_heads=heads,
        num_kv_heads=fields.size("n_kv_heads", heads),
        head_dim=width // heads,
        feed_forward_hidden=_hidden(fields, width),
        norm_epsilon=fields.number("norm_eps", 1e-5),
        rotary_theta=fields.rotary_theta(10_000.0),
        vocabulary_size=fields.size("vocab_size", VOCABULARY_SIZE),
    )


def _hidden(fields: Fields, width: int) -> int:
    """Llama's rule, with the multiplier that larger models have."""
    hidden = int(2 * 4 * width / 3)
    if fields.published.get("ffn_dim_multiplier") is not None:
        hidden = int(fields.number("ffn_dim_multiplier") * hidden)
    multiple = fields.size("multiple_of", 256)
    return -(-hidden // multiple) * multiple
