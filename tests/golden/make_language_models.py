"""Tiny published checkpoints, and what the reference models compute with them.

Not a test, and imported by none: it needs torch, transformers and safetensors.

    python tests/golden/make_language_models.py SHOW_O_REPOSITORY

where the argument is a checkout of showlab/Show-o, whose attention masks are used. It
writes tests/golden/language_models/: for each model its config.json and its weights as
the libraries themselves write them, and golden.npz with hidden states at every stage,
logits and greedy continuations; and published_shapes.json, the names and shapes of the
released models. Every weight is random: none is left at 0 or 1.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForCausalLM,
    Emu3ForConditionalGeneration,
    Emu3TextConfig,
    PhiConfig,
    PhiForCausalLM,
)

OUT = Path(__file__).parent / "language_models"
NEW_TOKENS = 8
LENGTHS = (12, 9, 5)
METADATA = {"format": "pt"}

# --- Sizes and weights ----------------------------------------------------------------

LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
CHAMELEON_ROWS = 96
IMAGE_IDS = range(64, 80)
TINY_VQ = {
    "embed_dim": 8,
    "num_embeddings": 16,
    "latent_channels": 8,
    "resolution": 16,
    "base_channels": 32,
    "channel_multiplier": [1, 2],
    "num_res_blocks": 1,
}
SHOW_O_SPECIAL = {
    **{"pad": 40, "begin_image": 41, "end_image": 42, "text_to_image": 43},
    **{"understanding": 44, "begin": 45, "end": 46, "mask": 63},
}
SHOW_O_ROWS = 64
SHOW_O_CODES = range(47, 63)


def letters(code):
    """An image code as Chameleon's vocabulary spells it: digits as A to J, then Z."""
    return "IMGIMG" + "".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) + "Z"


def randomise(model, dtype):
    """Random weights everywhere, exact in a dtype; the model computes in float32."""
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        value = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1 or re.search(r"[qk]_norm\.", name):
            value = 0.2 * value + (0 if name.endswith("bias") else 1)
        elif "embed" not in name:
            value = 1.5 * value / weight.shape[-1] ** 0.5
        weight.data = value.to(dtype).float()
    return model.float().eval()


def chameleon(swin):
    vocabulary = {letters(n): IMAGE_IDS[n] for n in range(16)} | {"<image>": 80}
    config = ChameleonConfig(
        **LLAMA,
        vocab_size=CHAMELEON_ROWS,
        swin_norm=swin,
        vocabulary_map=vocabulary,
        vq_config=TINY_VQ,
        attn_implementation="eager",
    )
    return randomise(ChameleonForConditionalGeneration(config), torch.bfloat16)


def emu3():
    config = Emu3TextConfig(
        **LLAMA, vocab_size=CHAMELEON_ROWS, attn_implementation="eager"
    )
    return randomise(Emu3ForCausalLM(config), torch.bfloat16)


def show_o():
    config = PhiConfig(
        **(LLAMA | {"hidden_size": 32, "num_key_value_heads": 4}),
        vocab_size=SHOW_O_ROWS,
        qk_layernorm=True,
        attn_implementation="eager",
    )
    return randomise(PhiForCausalLM(config), torch.float32)


# --- What they compute ----------------------------------------------------------------


def stages(model, backbone, **inputs):
    """Hidden states after the embedding and each block, and logits without masks."""
    seen = {}

    def keep(name):
        def hook(module, arguments, result):
            seen[name] = result[0] if isinstance(result, tuple) else result

        return hook

    hooks = [backbone.embed_tokens.register_forward_hook(keep("embedding"))]
    hooks += [
        layer.register_forward_hook(keep(f"block_{index}"))
        for index, layer in enumerate(backbone.layers)
    ]
    with torch.no_grad():
        last = backbone(**inputs).last_hidden_state
        seen["logits"] = model.lm_head(last)
    for hook in hooks:
        hook.remove()
    return {name: value.numpy() for name, value in seen.items()}


def from_the_left(array, lengths):
    """Rows whose padding stands at the left, moved to the start; zeros after."""
    moved = np.zeros_like(array)
    for row, length in enumerate(lengths):
        moved[row, :length] = array[row, array.shape[1] - length :]
    return moved


def causal_rows(model, backbone, ids):
    """Stages and greedy continuations of rows padded at the left."""
    length = max(LENGTHS)
    rows = np.zeros((len(LENGTHS), length), np.int64)
    mask = np.zeros_like(rows)
    for row, count in enumerate(LENGTHS):
        rows[row, length - count :] = ids[row, :count]
        mask[row, length - count :] = 1
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    rows, mask, positions = map(torch.from_numpy, (rows, mask, positions))
    found = stages(
        model, backbone, input_ids=rows, attention_mask=mask, position_ids=positions
    )
    with torch.no_grad():
        written = model.generate(
            input_ids=rows,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
    return {
        "ids": from_the_left(rows.numpy(), LENGTHS).astype(np.int32),
        "lengths": np.array(LENGTHS, np.int32),
        "greedy": written[:, length:].numpy().astype(np.int32),
        **{name: from_the_left(value, LENGTHS) for name, value in found.items()},
    }


def prompting(repository):
    path = Path(repository) / "training" / "prompting_utils.py"
    spec = importlib.util.spec_from_file_location("prompting_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def omni_rows(model, repository, random):
    """A text-to-image and an understanding batch under Show-o's own masks."""
    masks, special = prompting(repository), SHOW_O_SPECIAL
    marks = {"soi_id": special["begin_image"], "eoi_id": special["end_image"]}
    drawn, read = [], []
    for prompt in (5, 2):
        text = random.integers(0, 40, prompt)
        codes = random.choice(SHOW_O_CODES, 4)
        codes[random.permutation(4)[:2]] = special["mask"]
        image = [special["begin_image"], *codes, special["end_image"]]
        start = [special["text_to_image"], special["begin"], *text, special["end"]]
        drawn.append([*[special["pad"]] * (5 - prompt), *start, *image])
        caption = random.integers(0, 40, prompt)
        start = [special["understanding"], *image, special["begin"], *caption]
        read.append([*start, special["end"], *[special["pad"]] * (5 - prompt)])
    found = {}
    for task, rows in (("text_to_image", drawn), ("image_to_text", read)):
        rows = torch.tensor(rows)
        if task == "text_to_image":
            mask = masks.create_attention_mask_predict_next(
                rows, pad_id=special["pad"], rm_pad_in_image=True, **marks
            )
        else:
            mask = masks.create_attention_mask_for_mmu(rows, eoi_id=marks["eoi_id"])
        mask = mask.to(torch.float32)
        logits = stages(model, model.model, input_ids=rows, attention_mask=mask)[
            "logits"
        ]
        found |= {
            f"{task}/ids": rows.numpy().astype(np.int32),
            f"{task}/logits": logits,
        }
    return found


# --- Files ----------------------------------------------------------------------------


def write(name, arrays, config):
    (OUT / name).mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT / name / "golden.npz", **arrays)
    text = json.dumps(config, indent=1, sort_keys=True, default=str)
    (OUT / name / "config.json").write_text(text + "\n")


def write_tensors(name, tensors, dtype):
    stored = {key: value.to(dtype).contiguous() for key, value in tensors.items()}
    save_file(stored, OUT / name / "model.safetensors", metadata=METADATA)


def published_shapes():
    """Names and shapes of the released models, those of layer 0 standing for all."""
    words = {"vocabulary_map": {"<image>": 4}}
    with torch.device("meta"):
        chameleon_7b = ChameleonConfig(**words)
        chameleon_30b = ChameleonConfig(
            **words,
            hidden_size=8192,
            intermediate_size=22016,
            num_hidden_layers=48,
            num_attention_heads=64,
            num_key_value_heads=8,
            swin_norm=True,
        )
        models = {
            "chameleon_7b_released": ChameleonForConditionalGeneration(chameleon_7b),
            "chameleon_34b_released": ChameleonForConditionalGeneration(chameleon_30b),
            "emu3": Emu3ForCausalLM(Emu3TextConfig()),
            "emu3_hf": Emu3ForConditionalGeneration(Emu3Config(**words)),
            "phi": PhiForCausalLM(PhiConfig()),
            "show_o": PhiForCausalLM(PhiConfig(qk_layernorm=True, vocab_size=58498)),
        }
    found = {}
    for name, model in models.items():
        prefix = "showo." if name == "show_o" else ""
        shapes = {prefix + k: list(v.shape) for k, v in model.state_dict().items()}
        language = {k: v for k, v in shapes.items() if "vqmodel" not in k}
        layers = {int(n) for k in language for n in re.findall(r"\.layers\.(\d+)\.", k)}
        of_layer = re.compile(r"\.layers\.([1-9]\d*)\.")
        once = {k: v for k, v in language.items() if not of_layer.search(k)}
        found[name] = {"num_layers": len(layers), "shapes": once}
    return found


def main():
    random = np.random.default_rng(3)
    ids = random.integers(1, 64, (len(LENGTHS), max(LENGTHS)))
    for name, swin in (("chameleon", False), ("chameleon_swin", True)):
        model = chameleon(swin)
        arrays = causal_rows(model, model.model, ids)
        write(name, arrays, model.config.to_dict())
        if not swin:
            tensors = {
                key: value
                for key, value in model.state_dict().items()
                if not key.startswith("model.vqmodel.") or "quantize" in key
            }
            write_tensors(name, tensors, torch.bfloat16)
    model = emu3()
    write("emu3", causal_rows(model, model.model, ids), model.config.to_dict())
    model.to(torch.bfloat16).save_pretrained(OUT / "emu3", max_shard_size="100KB")
    (OUT / "emu3" / "generation_config.json").unlink()
    model, ids = show_o(), ids % 40
    arrays = causal_rows(model, model.model, ids)
    arrays |= omni_rows(model, sys.argv[1], random)
    write("show_o", arrays, model.config.to_dict())
    tensors = {f"showo.{key}": value for key, value in model.state_dict().items()}
    write_tensors("show_o", tensors, torch.float32)
    text = json.dumps(published_shapes(), indent=1, sort_keys=True)
    (OUT / "published_shapes.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
