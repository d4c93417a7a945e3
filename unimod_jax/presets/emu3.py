"""Emu3 (2409.18869): next-token prediction over text and lines of image codes.

A Llama block with grouped queries and dropout everywhere. An image of 512 px is 64
lines of 64 codes, each line closed by a token of its own. UniMoD (2502.06474, section
5.1) keeps a fifth of the tokens of both tasks in the last sixteen layers.
"""

import dataclasses

from unimod_jax import mod
from unimod_jax.layout import PartSizes, next_token_tasks, shared
from unimod_jax.models import MixtureOfDepths, ModelConfig
from unimod_jax.objectives import NextToken
from unimod_jax.presets.preset import Preset, sourced
from unimod_jax.presets.recipe import Recipe

_MODEL = ModelConfig(
    width=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    feed_forward_hidden=14_336,
    qk_norm="none",
    rotary_theta=1e6,
    attention_dropout=0.1,
    residual_dropout=0.1,
    embedding_dropout=0.1,
    vocabulary_size=184_622,
    image_positions=False,
    compute_dtype="bfloat16",
)

UNIMOD = MixtureOfDepths(
    mod.same_for(
        ("text_to_image", "image_to_text"), mod.last_half(_MODEL.num_layers, 0.2)
    )
)

_BATCH_ROWS = 2 * 4 * 8
_UNDERSTANDING_ROWS = 665_000

_RECIPE = Recipe(
    steps=_UNDERSTANDING_ROWS // (_BATCH_ROWS // 2),
    learning_rate=1e-5,
    schedule="cosine",
    warmup_steps=30,
    final_learning_rate=1e-6,
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-6,
    clip_norm=5.0,
)

_TUNING = (
    "UniMoD's fine-tuning recipe is unknown; borrowed from Emu3's released fine-tuning "
    "script (baaivision/Emu3)"
)
_SOURCES = {
    "model": (
        "BAAI/Emu3's configuration: 32 layers of width 4,096 with 32 query and 8 key "
        "heads, 14,336 hidden units, rotary base 1e6, a vocabulary of 184,622 with an "
        "untied head, and dropout of 0.1 on attention, both branches and the "
        "embedding: 8.49B parameters."
    ),
    "sizes": (
        "Emu3 (2409.18869): 64 lines of 64 codes for an image of 512 px, each with "
        "its end of line, 4,160 slots; UniMoD says 4,096 codes. 128 prompt tokens, "
        "Show-o's budget for the same generation data, make rows of about 4,300: own "
        "choice."
    ),
    "unimod": (
        "UniMoD (2502.06474, section 5.1): the last 16 layers keep 0.2 of both tasks. "
        "Language-only rows are not mentioned: dense."
    ),
    "typical_text_tokens": (
        "Own choice: captions have about 20 to 60 tokens, and all text slots beyond "
        "are padding."
    ),
    "steps": (
        "Not published: one pass over the 665,000 rows of LLaVA-v1.5's mix, UniMoD's "
        "understanding data, as half of each batch."
    ),
    "batch_rows": f"{_TUNING}: 2 rows, 4 accumulated steps; UniMoD's 8 GPUs.",
    "learning_rate": f"{_TUNING}: 1e-5.",
    "router_learning_rate_ratio": "Not published; one rate for all parameters.",
    "schedule": f"{_TUNING}: cosine.",
    "warmup_steps": f"{_TUNING}: 30.",
    "final_learning_rate": f"{_TUNING}: 1e-6.",
    "weight_decay": f"{_TUNING}: 0.1.",
    "beta1": f"{_TUNING}: 0.9.",
    "beta2": f"{_TUNING}: 0.95.",
    "epsilon": f"{_TUNING}: 1e-6.",
    "clip_norm": f"{_TUNING}: 5.0.",
    "objective": (
        "Emu3 (2409.18869): next-token prediction with weight 0.5 on vision tokens in "
        "pre-training; its code has no z-loss."
    ),
}

EMU3_512 = Preset(
    name="emu3",
    title="Emu3 at 512 px",
    model=_MODEL,
    objective=NextToken(image_weight=0.5),
    # UniMoD (2502.06474, section 5.1) trains on both tasks, alike.
    tasks=shared(next_token_tasks(), text_to_image=1, image_to_text=1, text_only=0),
    sizes=PartSizes(128, image_codes=4096, image_line=64),
    recipe=_RECIPE,
    batch_rows=_BATCH_ROWS,
    unimod=UNIMOD,
    mean_tasks=("text_to_image", "image_to_text"),
    typical_text_tokens=40,
    sources=sourced(_SOURCES, {}),
)

EMU3_720 = dataclasses.replace(
    EMU3_512,
    name="emu3_720",
    title="Emu3 at 720 px",
    sizes=dataclasses.replace(EMU3_512.sizes, image_codes=8100, image_line=90),
    sources=sourced(
        _SOURCES,
        {
            "sizes": (
                "Emu3 (2409.18869): 90 lines of 90 codes for an image of 720 px, the "
                "resolution of the released generation model, which UniMoD did not "
                "use; prompts as at 512 px."
            )
        },
    ),
)

EMU3 = (EMU3_512, EMU3_720)
"""At UniMoD's resolution and at that of the released generation model."""
