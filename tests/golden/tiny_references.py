"""The reference models at tiny sizes, every weight random: none is left at 0 or 1.

Not a test: it needs torch and transformers.
"""

import re

import numpy as np
import torch
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

from tests.golden.random_tensors import random_tensor

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
ROWS = 96
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
EMU3_HF_ROWS = 128
EMU3_IMAGE_IDS = range(64, 96)
END_OF_LINE, IMAGE_PLACE = 96, 97
TINY_MOVQGAN = {
    "codebook_size": 32,
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [1],
    "hidden_size": 32,
}
SPREAD = 8
"""Takes latents as far apart as code vectors are, so that images use many codes."""
PHI_ROWS = 64


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
    """As released for transformers, with either order of norms."""
    vocabulary = {letters(n): IMAGE_IDS[n] for n in range(16)} | {"<image>": 80}
    config = ChameleonConfig(
        **LLAMA,
        vocab_size=ROWS,
        swin_norm=swin,
        vocabulary_map=vocabulary,
        vq_config=TINY_VQ,
        attn_implementation="eager",
    )
    return randomise(ChameleonForConditionalGeneration(config), torch.bfloat16)


def emu3():
    """The language model alone, as in the original repositories."""
    config = Emu3TextConfig(**LLAMA, vocab_size=ROWS, attn_implementation="eager")
    return randomise(Emu3ForCausalLM(config), torch.bfloat16)


def emu3_hf():
    """The language model and its image tokenizer in one, as in the -hf repositories."""
    words = {f"<|visual token {n:06}|>": each for n, each in enumerate(EMU3_IMAGE_IDS)}
    words |= {"<|extra_200|>": END_OF_LINE, "<image>": IMAGE_PLACE}
    config = Emu3Config(
        text_config=LLAMA | {"vocab_size": EMU3_HF_ROWS},
        vq_config=TINY_MOVQGAN,
        vocabulary_map=words,
        attn_implementation="eager",
    )
    model = randomise(Emu3ForConditionalGeneration(config), torch.bfloat16)
    for name, tensor in model.model.vqmodel.state_dict().items():
        drawn = random_tensor(f"model.vqmodel.{name}", tuple(tensor.shape))
        tensor.copy_(torch.from_numpy(np.asarray(drawn)).to(torch.bfloat16))
    model.model.vqmodel.quant_conv.conv.weight.data *= SPREAD
    return model


def phi():
    """Phi as it was published, without norms of queries and keys."""
    config = PhiConfig(
        **(LLAMA | {"intermediate_size": 144}),
        vocab_size=PHI_ROWS,
        attn_implementation="eager",
    )
    return randomise(PhiForCausalLM(config), torch.float16)


def show_o():
    """Show-o's Phi, by transformers' names."""
    config = PhiConfig(
        **(LLAMA | {"hidden_size": 32, "num_key_value_heads": 4}),
        vocab_size=PHI_ROWS,
        qk_layernorm=True,
        attn_implementation="eager",
    )
    return randomise(PhiForCausalLM(config), torch.float32)
