"""Transfusion (2408.11039) in the four sizes Mixture-of-Transformers trains.

Text is predicted token by token, images are 256 patches of 2 x 2 latents of 8 channels
that see each other and are denoised. The blocks are Llama's: norms before each branch,
none of queries and keys. MoT (2411.04996, section 3.4.1) prints the whole recipe.
"""

import dataclasses

from unimod_jax.layout import (
    IMAGE,
    TEXT,
    PartSizes,
    diffusion_tasks,
    interleaved_task,
    shared,
)
from unimod_jax.objectives import ImageDiffusion
from unimod_jax.presets.chameleon import (
    ROUTING_SOURCE,
    TEXT_SOURCE,
    last_half_of,
    llama,
)
from unimod_jax.presets.preset import Preset
from unimod_jax.presets.recipe import Recipe

_PATCH_SIZE = 2 * 2 * 8
_IMAGE_PATCHES = 256

_TIME_CAP = 0.5

_SIZES = PartSizes(
    125, image_patches=_IMAGE_PATCHES, continuous=True, patch_size=_PATCH_SIZE
)

_TASKS = (
    *shared(
        diffusion_tasks(time_cap=_TIME_CAP),
        text_to_image=0,
        image_to_text=0,
        text_only=0,
    ),
    interleaved_task(
        ((TEXT, 2048), (IMAGE, 2048)),
        bidirectional=(IMAGE,),
        captioned_time=_TIME_CAP,
        documents_per_row=8,
    ),
)
"""It is trained on interleaved rows alone; the others are what it is asked to do."""

_RECIPE = Recipe(
    steps=250_000,
    learning_rate=3e-4,
    schedule="cosine",
    warmup_steps=4000,
    final_learning_rate=1.5e-5,
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    clip_norm=1.0,
)

_PRINTED = "MoT (2411.04996, section 3.4.1)"
_SOURCES = {
    "model": (
        "Width, layers and heads: MoT (2411.04996, table 4). Llama's block with norms "
        "before each branch and no query and key norms: Transfusion (2408.11039, "
        "section 3). Llama-2's vocabulary of 32,000 with an untied head and the "
        "feed-forward rule in multiples of 256, as MoT's parameter counts confirm."
    ),
    "sizes": (
        "256 patches of 2 x 2 x 8 latents an image, rows of 4,096 tokens, as many text "
        "as image tokens: Transfusion (2408.11039, section 3) and MoT (2411.04996, "
        "section 3.4.1). Prompts of 125 tokens, so that rows of one image have 3 x 128 "
        "slots, and eight documents of one image each in interleaved rows: own choice."
    ),
    "unimod": ROUTING_SOURCE,
    "typical_text_tokens": TEXT_SOURCE,
    "steps": "MoT (2411.04996, table 4).",
    "batch_rows": "MoT (2411.04996, table 4): rows per GPU times GPUs.",
    "learning_rate": f"{_PRINTED}: 3e-4.",
    "router_learning_rate_ratio": "Not published; one rate for all parameters.",
    "schedule": f"{_PRINTED}: cosine.",
    "warmup_steps": f"{_PRINTED}: 4,000 steps.",
    "final_learning_rate": f"{_PRINTED}: 1.5e-5.",
    "weight_decay": f"{_PRINTED}: 0.1.",
    "beta1": f"{_PRINTED}: 0.9.",
    "beta2": f"{_PRINTED}: 0.95.",
    "epsilon": f"{_PRINTED}: 1e-8.",
    "clip_norm": f"{_PRINTED}: 1.0.",
    "objective": (
        "Lambda of 5 for the diffusion loss: MoT (2411.04996, section 3.4.1). Noise up "
        "to t = 500 for an image before its caption: Transfusion (2408.11039, section "
        "4.3); MoT does not say whether it does. Latents have no bounds to clip to."
    ),
}

_SIZE_TABLE = (
    # label, width, layers, heads
    ("163M", 768, 16, 12),
    ("760M", 1536, 24, 24),
    ("1.4B", 2048, 24, 16),
    ("7B", 4096, 32, 32),
)


def _transfusion(label: str, width: int, layers: int, heads: int) -> Preset:
    return Preset(
        name=f"transfusion_{label.lower().replace('.', '_')}",
        title=f"Transfusion {label} of Mixture-of-Transformers",
        model=dataclasses.replace(
            llama(width, layers, heads), qk_norm="none", vocabulary_size=32_000
        ),
        objective=ImageDiffusion(largest_value=0.0),
        tasks=_TASKS,
        sizes=_SIZES,
        recipe=_RECIPE,
        batch_rows=512,
        unimod=last_half_of(layers),
        mean_tasks=("interleaved",),
        typical_text_tokens=40,
        sources=tuple(_SOURCES.items()),
    )


TRANSFUSION = tuple(_transfusion(*size) for size in _SIZE_TABLE)
"""From the smallest to the largest."""
