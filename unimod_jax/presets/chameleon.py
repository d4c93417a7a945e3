"""Chameleon (2405.09818): the sizes that MoT trains, and the two released models.

Everything is a token and everything is causal: images are 1,024 codes of a vocabulary
of 65,536, speech (in the three-modality twins) 500 more. Mixture-of-Transformers
(2411.04996) prints widths, layers, heads, batches and steps; its parameter counts
follow from Llama's feed-forward rule and an untied head, which the tests check. It
prints no optimiser for this setting, so Chameleon's is borrowed.
"""

import dataclasses

from unimod_jax import mod
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    PartSizes,
    Slots,
    Task,
    interleaved_task,
    next_token_tasks,
    shared,
)
from unimod_jax.models import MixtureOfDepths, ModelConfig
from unimod_jax.mot import swiglu_width
from unimod_jax.objectives import NextToken
from unimod_jax.presets.preset import Preset, sourced
from unimod_jax.presets.recipe import Recipe

VOCABULARY_SIZE = 65_536
"""Text and the 8,192 image codes together (2405.09818, section 2.2)."""

_SPEECH_UNITS = 500  # DinoSR units at 25 Hz (2411.04996, section 3.3)
_SPEECH_MARKERS = 2  # begin and end of speech
_TABLE_MULTIPLE = 128

SPEECH_VOCABULARY_SIZE = _TABLE_MULTIPLE * -(
    -(VOCABULARY_SIZE + _SPEECH_UNITS + _SPEECH_MARKERS) // _TABLE_MULTIPLE
)
"""With speech units and markers behind, padded to whole tiles of the table."""

_ROW_TOKENS = 4096
_TOKENS_SEEN = 9_200_000_000_000  # 4.4T unique, 2.1 epochs (2405.09818, section 2)

_SIZES = PartSizes(125, image_codes=1024)


def _tasks(slots: Slots) -> tuple[Task, ...]:
    """It trains on interleaved rows alone; the others are what it is asked to do."""
    asked = shared(next_token_tasks(), text_to_image=0, image_to_text=0, text_only=0)
    return (*asked, interleaved_task(slots, documents_per_row=2))


_TASKS = _tasks(((TEXT, 2048), (IMAGE, 2048)))
_SPEECH_TASKS = _tasks(((TEXT, 1472), (IMAGE, 2048), (SPEECH, 576)))


def last_half_of(num_layers: int) -> MixtureOfDepths:
    """UniMoD was never tried on these models: this project's own choice."""
    tasks = ("text_to_image", "image_to_text", "interleaved")
    return MixtureOfDepths(mod.same_for(tasks, mod.last_half(num_layers, 0.5)))


_RECIPE = Recipe(
    steps=160_000,
    learning_rate=1e-4,
    schedule="exponential",
    warmup_steps=4000,
    final_learning_rate=1e-6,
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-5,
    clip_norm=1.0,
)

_PAPER = "Chameleon (2405.09818, section 2.3)"
_BORROWED = f"MoT prints none for this setting; borrowed from {_PAPER}"
_OBJECTIVE = (
    "Next-token prediction, every token with the same weight: Chameleon (2405.09818, "
    "section 2)"
)
_DECAY = (
    "Chameleon (2405.09818, section 2.3) decays exponentially to 0, which no "
    "exponential reaches; ending at a hundredth of the peak is this project's reading."
)
ROUTING_SOURCE = (
    "Not published for this model: this project's choice of half the tokens in the "
    "last half of the layers, with language-only rows dense."
)
TEXT_SOURCE = (
    "Own choice: captions of image-text pairs have about 20 to 60 tokens; interleaved "
    "rows are packed full."
)
_SOURCES = {
    "model": (
        "Width, layers and heads: MoT (2411.04996, tables 1, 3 and 5). Norms behind "
        "each branch: its equations 1 and 2. Llama's feed-forward rule in multiples "
        "of 256: its code. Layer norm of queries and keys, a vocabulary of 65,536 and "
        "an untied head: Chameleon (2405.09818, section 2), as MoT's parameter counts "
        "confirm."
    ),
    "objective": f"{_OBJECTIVE}. z-loss: {_BORROWED}: 1e-5.",
    "sizes": (
        "4,096-token rows with as many text as image tokens and images of 1,024 "
        "codes: MoT (2411.04996, section 3.2). Prompts of 125 tokens, so that rows of "
        "one image have 9 x 128 slots, and two documents of one image each in "
        "interleaved rows: own choice."
    ),
    "unimod": ROUTING_SOURCE,
    "typical_text_tokens": TEXT_SOURCE,
    "steps": "MoT (2411.04996, tables 1, 3 and 5).",
    "batch_rows": "MoT (2411.04996, tables 1, 3 and 5): rows per GPU times GPUs.",
    "learning_rate": f"{_BORROWED}: 1e-4.",
    "router_learning_rate_ratio": "Not published; one rate for all parameters.",
    "schedule": f"{_BORROWED}: exponential.",
    "warmup_steps": f"{_BORROWED}: 4,000 linear steps.",
    "final_learning_rate": f"MoT prints none for this setting. {_DECAY}",
    "weight_decay": f"{_BORROWED}: 0.1.",
    "beta1": f"{_BORROWED}: 0.9.",
    "beta2": f"{_BORROWED}: 0.95.",
    "epsilon": f"{_BORROWED}: 1e-5.",
    "clip_norm": f"{_BORROWED}: 1.0.",
}
_SPEECH_SOURCES = {
    "sizes": (
        "4,096-token rows: MoT (2411.04996, section 3.3), which samples speech data "
        "one to six with the rest; 576 speech slots are a seventh in multiples of 64, "
        "two whole images, one a document, take 2,048 and text the other 1,472: own "
        "choice."
    ),
    "model": (
        f"{_SOURCES['model']} With speech, 500 units (MoT, section 3.3) and 2 markers "
        "are appended to the table, which MoT does not describe, and the table is "
        "padded to a multiple of 128."
    ),
}
_RELEASED_SOURCES = {
    "steps": (
        "9.2T tokens (4.4T unique, 2.1 epochs) over the tokens of a batch: Chameleon "
        "(2405.09818, section 2)."
    ),
    "learning_rate": f"{_PAPER}: 1e-4.",
    "schedule": f"{_PAPER}: exponential.",
    "warmup_steps": f"{_PAPER}: 4,000 linear steps.",
    "final_learning_rate": _DECAY,
    "weight_decay": f"{_PAPER}: 0.1.",
    "beta1": f"{_PAPER}: 0.9.",
    "beta2": f"{_PAPER}: 0.95.",
    "epsilon": f"{_PAPER}: 1e-5.",
    "clip_norm": f"{_PAPER}: 1.0.",
    "objective": f"{_OBJECTIVE}; z-loss of 1e-5: {_PAPER}.",
    "sizes": (
        "Context of 4,096 tokens and images of 1,024 codes: Chameleon (2405.09818, "
        "section 2). Half text, half image, two documents of one image each and "
        "prompts of 125 tokens: own choice."
    ),
}


def llama(width: int, num_layers: int, num_heads: int) -> ModelConfig:
    """A Llama block of one of MoT's sizes, without what its settings differ in.

    Heads share the width, each has keys of its own, and the feed-forward follows
    Llama's rule in multiples of 256 (2411.04996's code).
    """
    return ModelConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=width // num_heads,
        feed_forward_hidden=swiglu_width(width, 256),
        image_positions=False,
        compute_dtype="bfloat16",
    )


def _chameleon(
    name: str, title: str, model: ModelConfig, recipe: Recipe, batch_rows: int
) -> Preset:
    return Preset(
        name=name,
        title=title,
        model=dataclasses.replace(
            model,
            norm_order="swin",
            qk_norm="layer",
            vocabulary_size=VOCABULARY_SIZE,
        ),
        objective=NextToken(image_weight=1.0, z_loss=1e-5),
        tasks=_TASKS,
        sizes=_SIZES,
        recipe=recipe,
        batch_rows=batch_rows,
        unimod=last_half_of(model.num_layers),
        mean_tasks=("interleaved",),
        typical_text_tokens=40,
        sources=sourced(_SOURCES, {}),
    )


def with_speech(preset: Preset) -> Preset:
    """The three-modality twin: speech units behind the vocabulary, speech in rows."""
    return dataclasses.replace(
        preset,
        name=f"{preset.name}_speech",
        title=f"{preset.title}, with speech",
        model=dataclasses.replace(
            preset.model,
            modalities=(TEXT, IMAGE, SPEECH),
            vocabulary_size=SPEECH_VOCABULARY_SIZE,
        ),
        tasks=_SPEECH_TASKS,
        sources=sourced(preset.source_of, _SPEECH_SOURCES),
    )


_TRAINED_BY_MOT = (
    # label, width, layers, heads, rows per GPU, GPUs, steps
    ("37M", 256, 4, 8, 12, 32, 160_000),
    ("94M", 512, 8, 8, 8, 32, 160_000),
    ("443M", 1024, 24, 16, 6, 64, 160_000),
    ("880M", 1536, 24, 24, 4, 128, 120_000),
    ("1.5B", 2048, 24, 16, 4, 128, 120_000),
    ("7B", 4096, 32, 32, 2, 384, 120_000),
)


def _trained_by_mot() -> tuple[Preset, ...]:
    presets = []
    for label, width, layers, heads, gpu_rows, gpus, steps in _TRAINED_BY_MOT:
        recipe = dataclasses.replace(_RECIPE, steps=steps)
        two = _chameleon(
            f"chameleon_{label.lower().replace('.', '_')}",
            f"Chameleon {label} of Mixture-of-Transformers",
            llama(width, layers, heads),
            recipe,
            gpu_rows * gpus,
        )
        presets += [two, with_speech(two)]
    return tuple(presets)


def _released(preset: Preset, batch_tokens: int, model: str, rows: str) -> Preset:
    steps = _TOKENS_SEEN // batch_tokens
    own = _RELEASED_SOURCES | {
        "model": model,
        "batch_rows": f"{_PAPER}: {rows} tokens, 4,096 a row.",
    }
    return dataclasses.replace(
        preset,
        recipe=dataclasses.replace(preset.recipe, steps=steps),
        batch_rows=batch_tokens // _ROW_TOKENS,
        sources=sourced(preset.source_of, own),
    )


def _released_7b() -> Preset:
    preset = _chameleon(
        "chameleon_7b_released",
        "Chameleon 7B as released",
        llama(4096, 32, 32),
        _RECIPE,
        batch_rows=0,
    )
    model = dataclasses.replace(
        preset.model, norm_order="pre", qk_norm="layer_per_head", residual_dropout=0.1
    )
    source = (
        "facebook/chameleon-7b's configuration: Llama-2 7B's sizes, norms before each "
        "branch, query and key norms with weights per head. Dropout of 0.1 behind each "
        "branch: Chameleon (2405.09818, section 2.3)."
    )
    return _released(dataclasses.replace(preset, model=model), 2**23, source, "2^23")


def _released_34b() -> Preset:
    sizes = dataclasses.replace(llama(8192, 48, 64), num_kv_heads=8)
    preset = _chameleon(
        "chameleon_34b_released",
        "Chameleon 34B as released",
        sizes,
        _RECIPE,
        batch_rows=0,
    )
    model = dataclasses.replace(preset.model, qk_norm="layer_per_head")
    source = (
        "facebook/chameleon-30b: 48 layers of 64 heads with grouped queries and norms "
        "behind each branch, query and key norms with weights per head, no dropout "
        "(2405.09818, section 2.3); width 8,192, 8 key heads and 22,016 hidden units "
        "as in Code Llama 34B, which give its 34B parameters."
    )
    return _released(
        dataclasses.replace(preset, model=model), 3 * 2**22, source, "3 x 2^22"
    )


CHAMELEON = (*_trained_by_mot(), _released_7b(), _released_34b())
"""Each size of MoT with its speech twin, then the two released models."""
