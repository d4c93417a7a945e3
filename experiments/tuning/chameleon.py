"""The released Chameleon 7B with towers that start as copies, and routed layers.

Tests: both papers on a trained model: modalities part from one set of weights
(2411.04996), while half of the tokens skip each of the last 16 layers (2502.06474).
Run: python -m experiments.train tuning/chameleon --start-from runs/chameleon
Expect: the first step's loss is the dense model's but for what routes drop. No recipe
is published: Emu3's for tuning, which is of the same kind and size, stands in. Not run
here: the weights cannot be downloaded.
"""

import dataclasses

from experiments.published import published
from unimod_jax.models import MixtureOfTransformers
from unimod_jax.presets import preset
from unimod_jax.training import Experiment, TrainingConfig

_PROMPT_TOKENS = 128
_TRAINED = ("text_to_image", "image_to_text")


def experiment() -> Experiment:
    """The configuration."""
    recipe = preset("emu3").recipe
    chameleon = published(
        "chameleon_7b_released",
        "mot_unimod",
        mot=MixtureOfTransformers(initial_towers="copies"),
        training=TrainingConfig(**dataclasses.asdict(recipe)),
    )
    tasks = tuple(
        dataclasses.replace(task, share=int(task.name in _TRAINED))
        for task in chameleon.tasks
    )
    data = dataclasses.replace(
        chameleon.data,
        caption_tokens=_PROMPT_TOKENS,
        batch_size=preset("emu3").batch_rows,
    )
    return dataclasses.replace(chameleon, tasks=tasks, data=data)
