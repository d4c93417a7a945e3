"""Tiny published checkpoints, and what the reference models compute with them.

Not a test, and imported by none: it needs torch, transformers and safetensors.

    python -m tests.golden.make_language_models SHOW_O_REPOSITORY

where the argument is a checkout of showlab/Show-o, whose attention masks are used. It
writes tests/golden/language_models/: for each model its config.json and its weights as
the libraries themselves write them, and golden.npz with hidden states at every stage,
logits and greedy continuations (and for Emu3 with its image tokenizer, what it makes of
images in the prompt); and published_shapes.json, the names and shapes of the released
models.
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

from tests.golden.make_image_tokenizers import (
    channels_first,
    channels_last,
    check_margin,
)
from tests.golden.random_tensors import random_images
from tests.golden.tiny_references import (
    IMAGE_PLACE,
    chameleon,
    emu3,
    emu3_hf,
    phi,
    show_o,
)

OUT = Path(__file__).parent / "language_models"
NEW_TOKENS = 8
LENGTHS = (12, 9, 5)
METADATA = {"format": "pt"}
SHARD = "100KB"
IMAGES = (2, 12, 8, 3)
"""Images, rows, columns, channels; two pixels a side are one code."""
SHOW_O_SPECIAL = {
    **{"pad": 40, "begin_image": 41, "end_image": 42, "text_to_image": 43},
    **{"understanding": 44, "begin": 45, "end": 46, "mask": 63},
}
SHOW_O_CODES = range(47, 63)

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


def image_rows(model, random):
    """Prompts with an image: pixels, its codes, logits of the row, the image again."""
    vqmodel, image = model.model.vqmodel, channels_first(random_images(IMAGES))
    count, rows, columns = (IMAGES[0], *(n // 2 for n in IMAGES[1:3]))
    sizes = torch.tensor([IMAGES[1:3]] * count)
    before, after = (random.integers(1, 64, (count, n)) for n in (3, 4))
    places = np.full((count, rows * (columns + 1)), IMAGE_PLACE)
    prompt = torch.from_numpy(np.concatenate([before, places, after], axis=1))
    with torch.no_grad():
        frames = image[:, None].repeat(1, 4, 1, 1, 1)
        latent = vqmodel.quant_conv(vqmodel.encoder(frames).permute(0, 2, 1, 3, 4))
        check_margin(
            channels_last(latent[:, :, 0]), vqmodel.quantize.embedding.weight.numpy()
        )
        code = torch.stack(list(vqmodel.encode(image, sizes).image_tokens))
        found = model.model.get_image_tokens(image, sizes).long()
        ids = prompt.masked_scatter(prompt == IMAGE_PLACE, found)
        logits = model(input_ids=ids).logits
        seen = model(input_ids=prompt, pixel_values=image, image_sizes=sizes).logits
        # Releases of transformers before its pull request 47948 do that.
        assert torch.allclose(logits, seen, atol=1e-5), "this transformers drops images"
        written = found.reshape(count, -1)
        behind = torch.zeros(count, 3, dtype=torch.long)
        drawn = model.model.decode_image_tokens(
            torch.cat([written, behind], dim=1), rows, columns
        )
    return {
        "image/code": code.numpy().astype(np.int32),
        "image/ids": ids.numpy().astype(np.int32),
        "image/logits": logits.numpy(),
        "image/pixel": channels_last(drawn),
    }


# --- Files ----------------------------------------------------------------------------


def write(name, arrays, config):
    """Arrays and config in a folder without the weights of an earlier run."""
    (OUT / name).mkdir(parents=True, exist_ok=True)
    for earlier in (OUT / name).glob("model*.safetensors*"):
        earlier.unlink()
    np.savez_compressed(OUT / name / "golden.npz", **arrays)
    text = json.dumps(config, indent=1, sort_keys=True, default=str)
    (OUT / name / "config.json").write_text(text + "\n")


def write_tensors(name, tensors, dtype):
    stored = {key: value.to(dtype).contiguous() for key, value in tensors.items()}
    save_file(stored, OUT / name / "model.safetensors", metadata=METADATA)


def write_as_released(name, model, arrays, dtype):
    """By the library itself, in shards; with today's names, not those of older ones."""
    write(name, arrays, model.config.to_dict())
    model.to(dtype).save_pretrained(
        OUT / name, max_shard_size=SHARD, save_original_format=False
    )
    (OUT / name / "generation_config.json").unlink()


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
    arrays = causal_rows(model, model.model, ids)
    write_as_released("emu3", model, arrays, torch.bfloat16)
    model = emu3_hf()
    arrays = causal_rows(model, model.model.text_model, ids)
    arrays |= image_rows(model, np.random.default_rng(4))
    write_as_released("emu3_hf", model, arrays, torch.bfloat16)
    model = phi()
    arrays = causal_rows(model, model.model, ids)
    write_as_released("phi", model, arrays, torch.float16)
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
