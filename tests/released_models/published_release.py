"""Releases of the published sizes that take no disk: files full of holes.

Names, shapes and dtypes are those of the real files, as are the numbers of entries of
their tokenizers; every weight is zero. What is small about a tiny release cannot hide a
mistake here.
"""

import base64
import itertools
import json
import math

import ml_dtypes
import numpy as np
import tokenizers

from experiments.checkpoint_tour import tiny_tokenizers
from unimod_jax.convert import (
    LAYOUTS,
    chameleon_vqgan,
    magvit_v2,
    movqgan,
    phi,
)
from unimod_jax.convert.safetensors_format import header_bytes, make_header
from unimod_jax.image_tokenizers import (
    ChameleonVqganConfig,
    MagvitV2Config,
    MovqganConfig,
)
from unimod_jax.presets import preset
from unimod_jax.released_models import PublishedFiles

BFLOAT16, FLOAT32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
PHI_ENTRIES = 50_295
EMU3_RANKS = 151_643
EMU3_ROWS = 184_622
CHAMELEON_ROWS = 65_536

LLAMA = {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False}
CONFIGS = {
    # showlab/show-o-512x512, config.json
    "show-o": {
        "_class_name": "Showo",
        "codebook_size": 8192,
        "llm_vocab_size": PHI_ENTRIES,
        "num_vq_tokens": 1024,
        "vocab_size": 58_498,
        "w_clip_vit": False,
    },
    # microsoft/phi-1_5, config.json
    "phi": {
        "hidden_act": "gelu_new",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "layer_norm_eps": 1e-5,
        "num_attention_heads": 32,
        "num_hidden_layers": 24,
        "num_key_value_heads": None,
        "partial_rotary_factor": 0.5,
        "qk_layernorm": False,
        "rope_scaling": None,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "vocab_size": 51_200,
    },
    # Defaults of baaivision/Emu3, emu3/mllm/configuration_emu3.py
    "emu3": {
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": False,
        "vocab_size": EMU3_ROWS,
    },
    # Defaults of transformers' ChameleonConfig
    "chameleon": LLAMA
    | {
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10_000.0,
        "swin_norm": False,
        "vocab_size": CHAMELEON_ROWS,
    },
}


def write_published(family, folder):
    """All files of a release; the files of a PublishedFiles."""
    weights = folder / "weights"
    weights.mkdir(parents=True)
    (weights / "config.json").write_text(json.dumps(CONFIGS[family]))
    return _WRITERS[family](weights)


def _show_o(weights):
    table = LAYOUTS["show_o"].weights(preset("show_o_512").model, 1)
    _write_holes(weights / "model.safetensors", _described(table, FLOAT32))
    return _with_tokenizers_of_show_o(weights)


def _phi(weights):
    table = LAYOUTS["phi"].weights(phi.phi_1_5(), 1)
    _write_holes(weights / "model.safetensors", _described(table, np.dtype(np.float16)))
    return _with_tokenizers_of_show_o(weights)


def _with_tokenizers_of_show_o(weights):
    config, vision = MagvitV2Config(), weights.with_name("magvitv2")
    vision.mkdir()
    tensors = _described(magvit_v2.weight_map(config), FLOAT32)
    derived = magvit_v2.derived_tensors(config)
    tensors |= {name: (value.shape, value.dtype) for name, value in derived.items()}
    _write_holes(vision / "model.safetensors", tensors)
    path = tiny_tokenizers.byte_level(weights)
    pieces = tokenizers.Tokenizer.from_file(str(path))
    missing = PHI_ENTRIES - pieces.get_vocab_size()
    pieces.add_tokens([f"entry{number}" for number in range(missing)])
    pieces.save(str(path))
    return PublishedFiles(weights, vision)


def _emu3(weights):
    table = LAYOUTS["emu3"].weights(preset("emu3").model, 1)
    _write_holes(weights / "model.safetensors", _described(table, BFLOAT16))
    vision = weights.with_name("vision")
    vision.mkdir()
    tensors = _described(
        movqgan.weight_map(MovqganConfig(), movqgan.ORIGINAL), BFLOAT16
    )
    _write_holes(vision / "model.safetensors", tensors)
    # Single bytes, then pairs, then threes: each is made of two that stand before it.
    of_bytes = (
        itertools.product(range(256), repeat=length) for length in itertools.count(1)
    )
    ranks = itertools.islice(itertools.chain.from_iterable(of_bytes), EMU3_RANKS)
    lines = [
        f"{base64.b64encode(bytes(token)).decode()} {rank}"
        for rank, token in enumerate(ranks)
    ]
    vision_tokens = tiny_tokenizers.tiktoken(weights, 32_768).with_name(
        "emu3_vision_tokens.txt"
    )
    vision_tokens.write_text(vision_tokens.read_text().replace("<|video start|>\n", ""))
    (weights / "emu3.tiktoken").write_text("\n".join(lines) + "\n")
    return PublishedFiles(weights, vision)


def _chameleon(weights):
    table = LAYOUTS["chameleon"].weights(preset("chameleon_7b_released").model, 1)
    _write_holes(weights / "model.safetensors", _described(table, BFLOAT16))
    vision = weights.with_name("vqgan")
    vision.mkdir()
    vqgan = chameleon_vqgan.weight_map(ChameleonVqganConfig())
    _write_holes(vision / "model.safetensors", _described(vqgan, FLOAT32))
    path = tiny_tokenizers.vocabulary_map(weights, 8192)
    held = json.loads(path.read_text())
    entries = held["model"]["vocab"]
    entries |= {f"entry{n}": n for n in range(len(entries), CHAMELEON_ROWS)}
    path.write_text(json.dumps(held))
    return PublishedFiles(weights, vision)


_WRITERS = {"show-o": _show_o, "phi": _phi, "emu3": _emu3, "chameleon": _chameleon}


def _described(table, dtype):
    """Name -> (shape, dtype) of a table's tensors."""
    counters = "num_batches_tracked"
    return {
        tensor.name: (
            tensor.shape,
            np.dtype(np.int64) if tensor.name.endswith(counters) else dtype,
        )
        for entry in table.values()
        for tensor in entry.tensors
    }


def _write_holes(path, tensors):
    """A safetensors file of zeros that are not written."""
    size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in tensors.values())
    start = header_bytes(make_header(tensors, {}))
    path.write_bytes(start)
    with path.open("r+b") as file:
        file.truncate(len(start) + size)
