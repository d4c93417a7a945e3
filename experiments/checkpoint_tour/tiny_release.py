"""Tiny releases: every file of a published model, with random weights of small sizes.

Names, shapes, dtypes and configuration files are those of the real releases, because
they come from the same tables; so a tour through conversion, training and export meets
everything but the size and the sense of the real weights.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tokenizers

from experiments.checkpoint_tour import tiny_tokenizers
from unimod_jax.convert import (
    FileTensor,
    JoinedTensors,
    layout_of,
    new_manifest,
    write_files,
)
from unimod_jax.convert import chameleon_vqgan as vqgan_weights
from unimod_jax.convert import magvit_v2 as magvit_weights
from unimod_jax.convert import movqgan as movqgan_weights
from unimod_jax.image_tokenizers import (
    ChameleonVqganConfig,
    Ladder,
    MagvitV2Config,
    MovqganConfig,
)
from unimod_jax.models import ModelConfig
from unimod_jax.presets import preset
from unimod_jax.released_models import PublishedFiles

IMAGE_CODES = 16
UNUSED_ROWS = 8
"""Vocabulary rows of Phi that its tokenizer has no ids for; as released, 905."""

_LAYERS = 4
_FLOAT32 = np.dtype(np.float32)
_LADDER = Ladder((32, 32), (1, 1))
_TEXT = "abcdefghijklmnopqrstuvwxyzDU0123456789.,:"


@dataclasses.dataclass(frozen=True)
class Release:
    """A tiny release on disk.

    Attributes:
      family: name of its family.
      files: where its files are.
      image_size: pixels along a side that suit its image tokenizer.
    """

    family: str
    files: PublishedFiles
    image_size: int = 8


def write_release(family: str, folder: Path) -> Release:
    """Writes all files of a family's release.

    Args:
      family: "show-o", "phi", "emu3" or "chameleon".
      folder: a new one.
    """
    folder.mkdir(parents=True)
    return _WRITERS[family](folder)


def _show_o(folder: Path) -> Release:
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    text_ids = _entries(tiny_tokenizers.byte_level(tokenizer))
    rows = text_ids + 10 + IMAGE_CODES + 1
    model = _tiny("show_o_512", rows, feed_forward_hidden=48)
    weights = folder / "show-o"
    _write_model(weights, "show_o", model, _phi_config(model), _FLOAT32)
    _magvit_v2(folder / "magvitv2")
    files = PublishedFiles(weights, folder / "magvitv2", tokenizer)
    return Release("show-o", files)


def _phi(folder: Path) -> Release:
    """Half floats, its tokenizer beside them, and rows that the tokenizer leaves."""
    weights = folder / "phi-1_5"
    weights.mkdir()
    text_ids = _entries(tiny_tokenizers.byte_level(weights))
    sizes = {"qk_norm": "none", "feed_forward_hidden": 48}
    model = _tiny("show_o_512", text_ids + UNUSED_ROWS, **sizes)
    _write_model(weights, "phi", model, _phi_config(model), np.dtype(np.float16))
    _magvit_v2(folder / "magvitv2")
    return Release("phi", PublishedFiles(weights, folder / "magvitv2"))


def _magvit_v2(folder: Path) -> None:
    config = MagvitV2Config(_LADDER, _LADDER, bits=4)
    tensors = _described(magvit_weights.weight_map(config))
    _write(folder, tensors, magvit_weights.derived_tensors(config))


def _phi_config(model: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": model.vocabulary_size,
        "hidden_size": model.width,
        "intermediate_size": model.feed_forward_hidden,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
    }


def _emu3(folder: Path) -> Release:
    """As for transformers: one repository holds it all."""
    weights = folder / "Emu3-hf"
    vision = MovqganConfig((32, 32), 1, (1,), num_codes=IMAGE_CODES, time_halvings=1)
    rows = 256 + len(tiny_tokenizers.MERGED) + 208 + len(tiny_tokenizers.VISION)
    model = _tiny("emu3", rows + IMAGE_CODES, num_kv_heads=1, feed_forward_hidden=48)
    config = {"text_config": _llama_config(model)}
    others = movqgan_weights.weight_map(vision, movqgan_weights.TRANSFORMERS)
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    _write_model(weights, "emu3_hf", model, config, bfloat16, others)
    tiny_tokenizers.tiktoken(weights, IMAGE_CODES)
    return Release("emu3", PublishedFiles(weights))


def _chameleon(folder: Path) -> Release:
    """As for transformers, with the original image tokenizer, which can draw."""
    weights = folder / "chameleon"
    weights.mkdir()
    letters = "".join(dict.fromkeys("▁" + _TEXT.replace(" ", "")))
    rows = _entries(tiny_tokenizers.vocabulary_map(weights, IMAGE_CODES, letters))
    vqgan = ChameleonVqganConfig((32, 32), 1, 8, 8, IMAGE_CODES)
    model = _tiny("chameleon_7b_released", rows, feed_forward_hidden=48)
    config = _llama_config(model) | {"swin_norm": False}
    others = vqgan_weights.encoder_weight_map(vqgan)
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    _write_model(weights, "chameleon", model, config, bfloat16, others)
    _write(folder / "vqgan", _described(vqgan_weights.weight_map(vqgan)))
    return Release("chameleon", PublishedFiles(weights, folder / "vqgan"))


_WRITERS: Mapping[str, Callable[[Path], Release]] = {
    "show-o": _show_o,
    "phi": _phi,
    "emu3": _emu3,
    "chameleon": _chameleon,
}


def _entries(tokenizer: Path) -> int:
    return tokenizers.Tokenizer.from_file(str(tokenizer)).get_vocab_size()


def _tiny(name: str, rows: int, **sizes: Any) -> ModelConfig:
    return dataclasses.replace(
        preset(name).model,
        width=32,
        num_layers=_LAYERS,
        num_heads=2,
        head_dim=16,
        vocabulary_size=rows,
        **({"num_kv_heads": 2} | sizes),
    )


def _llama_config(model: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": model.vocabulary_size,
        "hidden_size": model.width,
        "intermediate_size": model.feed_forward_hidden,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
    }


type _Entries = Mapping[tuple[str, ...], FileTensor | JoinedTensors]


def _described(
    table: _Entries, dtype: np.dtype = _FLOAT32
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    tensors = [tensor for entry in table.values() for tensor in entry.tensors]
    return {t.name: (t.shape, _dtype(t.name, dtype)) for t in tensors}


def _dtype(name: str, dtype: np.dtype) -> np.dtype:
    return np.dtype(np.int64) if name.endswith("num_batches_tracked") else dtype


def _write_model(
    folder: Path,
    layout: str,
    model: ModelConfig,
    config: Mapping[str, Any],
    dtype: np.dtype,
    others: _Entries | None = None,
) -> None:
    """A language model, perhaps with other tensors in its files, and config.json."""
    tensors = _described(layout_of(layout).weights(model, 1), dtype)
    tensors |= _described(others or {}, dtype)
    there = list(folder.iterdir()) if folder.exists() else []
    scratch = folder.with_name(f"{folder.name}.tensors")
    _write(scratch, tensors)
    folder.mkdir(exist_ok=True)
    assert not any(path.suffix == ".safetensors" for path in there)
    for file in scratch.iterdir():
        file.rename(folder / file.name)
    scratch.rmdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _write(
    folder: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    given: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Tensors with random values, and some with given ones."""
    given = given or {}
    all_of = {**tensors, **{n: (x.shape, x.dtype) for n, x in given.items()}}

    def values(name: str) -> Callable[[], np.ndarray]:
        return lambda: given[name] if name in given else _random(name, all_of[name][0])

    write_files(new_manifest(all_of), folder, {name: values(name) for name in all_of})


def _random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values drawn from a tensor's name, of about the size that trained ones have."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.asarray(random.integers(1, 1000), np.int64)
    value = random.standard_normal(shape)
    if name.endswith("running_var"):
        return 0.5 + np.square(value)
    if len(shape) > 1:
        return value / np.sqrt(np.prod(shape[1:]))
    return 0.1 * value + (1.0 if name.endswith("weight") else 0.0)
