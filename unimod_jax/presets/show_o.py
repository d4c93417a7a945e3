"""Show-o (2408.12528): Phi-1.5 with masked image codes, as UniMoD converts it.

Phi's block has one layer norm with attention and feed-forward side by side behind it,
biases everywhere, and rotary positions on half of each head; Show-o adds layer norms of
queries and keys and 7,298 vocabulary rows. UniMoD (2502.06474, section 5.1) routes the
last twelve layers: generation keeps 0.8, understanding from 1 down to 0.2.
"""

import dataclasses

from unimod_jax import mod
from unimod_jax.layout import PartSizes, Task, masked_image_tasks, shared
from unimod_jax.models import MixtureOfDepths, ModelConfig
from unimod_jax.objectives import MaskedImage
from unimod_jax.presets.preset import Preset, sourced
from unimod_jax.presets.recipe import Recipe

_MODEL = ModelConfig(
    width=2048,
    num_layers=24,
    num_heads=32,
    num_kv_heads=32,
    head_dim=64,
    feed_forward="gelu",
    feed_forward_hidden=8192,
    norm="layer",
    norm_order="parallel",
    qk_norm="layer",
    biases=True,
    rotary_share=0.5,
    vocabulary_size=58_498,
    image_positions=False,
    compute_dtype="bfloat16",
)

UNIMOD = MixtureOfDepths(
    (
        mod.TaskPlan("text_to_image", mod.last_half(_MODEL.num_layers, 0.8)),
        mod.TaskPlan("image_to_text", mod.last_half(_MODEL.num_layers, 1.0, 0.2)),
    )
)
"""Its FLOPs give away the shape: a mean of 0.6 with both endpoints included."""

_SHORT_PROMPT = 126
_LONG_PROMPT = 379

_TEMPLATE_GPUS = 48

_RECIPE = Recipe(
    steps=16_000,
    learning_rate=5e-5,
    schedule="cosine",
    warmup_steps=1000,
    final_learning_rate=0.0,
    weight_decay=0.01,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    clip_norm=1.0,
)

_TUNING = (
    "UniMoD's fine-tuning recipe is unknown; borrowed from Show-o's second stage of "
    "instruction tuning"
)
_SOURCES = {
    "model": (
        "microsoft/phi-1_5's configuration, with the query and key norms that Show-o's "
        "code (showlab/Show-o) turns on and its vocabulary of 58,498: 1,448,176,770 "
        "parameters, the size of the released file."
    ),
    "sizes": (
        "Showlab/Show-o's prompting code: a text budget of 128 tokens and the task's "
        "own before the image; UniMoD's 1,024 codes an image are those of 512 px."
    ),
    "unimod": (
        "UniMoD (2502.06474, section 5.1): the last 12 layers, keep 0.8 for generation "
        "and from 1 down to 0.2 for understanding; linear with both endpoints is the "
        "shape that its FLOPs of -20% ask for. Language-only rows are not mentioned: "
        "dense."
    ),
    "typical_text_tokens": (
        "Own choice: captions have about 20 to 60 tokens, and all text slots beyond "
        "are padding."
    ),
    "steps": f"{_TUNING} at 512 px: 16,000.",
    "batch_rows": (
        f"{_TUNING} at 512 px: 5 generation, 2 language and 5 understanding rows per "
        "GPU, on the 48 GPUs of its launch template."
    ),
    "learning_rate": f"{_TUNING}: 5e-5.",
    "router_learning_rate_ratio": "Not published; one rate for all parameters.",
    "schedule": f"{_TUNING}: cosine.",
    "warmup_steps": f"{_TUNING}: 1,000.",
    "final_learning_rate": f"{_TUNING}: its cosine ends at 0.",
    "weight_decay": f"{_TUNING}: 0.01.",
    "beta1": f"{_TUNING}: 0.9.",
    "beta2": f"{_TUNING}: 0.999.",
    "epsilon": f"{_TUNING}: 1e-8.",
    "clip_norm": (
        f"{_TUNING}: 1.0 in its DeepSpeed launch template (its training files "
        "themselves set none)."
    ),
    "objective": (
        "Show-o's code: weights 1.0 of generation, 1.0 of understanding and 0.1 of "
        "language; the share of hidden codes follows a cosine; no z-loss."
    ),
}


def _rows(text_to_image: int, image_to_text: int, text_only: int) -> tuple[Task, ...]:
    """Its tasks with a GPU's rows of each."""
    return shared(
        masked_image_tasks(),
        text_to_image=text_to_image,
        image_to_text=image_to_text,
        text_only=text_only,
    )


SHOW_O_512 = Preset(
    name="show_o_512",
    title="Show-o at 512 px",
    model=_MODEL,
    objective=MaskedImage(),
    tasks=_rows(5, 5, 2),
    sizes=PartSizes(_SHORT_PROMPT, image_codes=1024),
    recipe=_RECIPE,
    batch_rows=(5 + 2 + 5) * _TEMPLATE_GPUS,
    unimod=UNIMOD,
    mean_tasks=("text_to_image", "image_to_text"),
    typical_text_tokens=40,
    sources=sourced(_SOURCES, {}),
)

SHOW_O_256 = dataclasses.replace(
    SHOW_O_512,
    name="show_o_256",
    title="Show-o at 256 px",
    tasks=_rows(4, 6, 2),
    sizes=dataclasses.replace(SHOW_O_512.sizes, image_codes=256),
    recipe=dataclasses.replace(_RECIPE, steps=14_000),
    batch_rows=(4 + 2 + 6) * _TEMPLATE_GPUS,
    sources=sourced(
        _SOURCES,
        {
            "sizes": (
                "Showlab/Show-o's prompting code: a text budget of 128 tokens and the "
                "task's own before the 256 codes of an image of 256 px."
            ),
            "steps": f"{_TUNING} at 256 px: 14,000.",
            "batch_rows": (
                f"{_TUNING} at 256 px: 4 generation, 2 language and 6 understanding "
                "rows per GPU, on the 48 GPUs of its launch template."
            ),
        },
    ),
)

SHOW_O_512_LONG = dataclasses.replace(
    SHOW_O_512,
    name="show_o_512_long",
    title="Show-o at 512 px with the long text budget of instruction tuning",
    sizes=dataclasses.replace(SHOW_O_512.sizes, text_tokens=_LONG_PROMPT),
    sources=sourced(
        _SOURCES,
        {
            "sizes": (
                "Showlab/Show-o's instruction tuning: a text budget of 381 tokens and "
                "the task's own beside the 1,024 codes of an image of 512 px."
            )
        },
    ),
)

SHOW_O = (SHOW_O_256, SHOW_O_512, SHOW_O_512_LONG)
"""One model, three shapes of rows."""
