"""Three modalities: text, scans and spoken digits in any order (Chameleon + speech).

Tests: towers for three modalities (2411.04996, section 3.3), packed rows of interleaved
documents, speech units without repeats behind the vocabulary. The voices are synthetic.
Run: python -m experiments.train toy/spoken_digits
     python -m experiments.evaluate runs/toy/spoken_digits
Expect: caption accuracy 0.93, generation accuracy 0.93, transcription accuracy 0.98;
about seven minutes on two CPU cores.
"""

import dataclasses

from unimod_jax.data import DataConfig
from unimod_jax.generation import SamplingConfig
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    interleaved_task,
    next_token_tasks,
    shared,
)
from unimod_jax.mod import last_half, same_for
from unimod_jax.models import MixtureOfDepths, ModelConfig
from unimod_jax.objectives import NextToken
from unimod_jax.training import Experiment, TrainingConfig

_ROUTED = ("interleaved", "text_to_image", "image_to_text")


def experiment() -> Experiment:
    """The configuration."""
    return Experiment(
        objective=NextToken(),
        tasks=(
            *shared(next_token_tasks(), text_to_image=1, image_to_text=1),
            dataclasses.replace(
                interleaved_task(((TEXT, 14), (IMAGE, 64), (SPEECH, 12))), share=2
            ),
        ),
        model=ModelConfig(modalities=(TEXT, IMAGE, SPEECH)),
        mod=MixtureOfDepths(same_for(_ROUTED, last_half(4, 0.5))),
        data=DataConfig(
            batch_size=64,
            caption_tokens=9,
            parts=("image", "text=captions", "speech"),
            speech_units=32,
            speech_tokens=12,
        ),
        training=TrainingConfig(
            steps=600,
            learning_rate=2e-3,
            checkpoint_every=300,
        ),
        sampling=SamplingConfig(guidance=3.0, temperature=0.6),
    )
