"""The demo: masked image codes and text (Show-o) with MoT towers and UniMoD routing.

Tests: both papers at once, on real scans: untied towers, task routers that keep 30% of
the image tokens in the last half of the layers, three tasks in every step.
Run: make demo, or python -m experiments.demo
Expect: caption accuracy 0.97, generation accuracy 0.98, 0.72 of the dense twin's FLOPs
at about 0.74 of its step time; four minutes in all on two CPU cores.
"""

from unimod_jax.data import DataConfig
from unimod_jax.generation import SamplingConfig
from unimod_jax.layout import masked_image_tasks, shared
from unimod_jax.mod import last_half, same_for
from unimod_jax.models import MixtureOfDepths
from unimod_jax.objectives import MaskedImage
from unimod_jax.training import Experiment, TrainingConfig

_ROUTED = ("text_to_image", "image_to_text")


def experiment() -> Experiment:
    """The configuration."""
    return Experiment(
        objective=MaskedImage(),
        # 1,437 scans are few: hiding some codes keeps them from being learned by heart.
        tasks=shared(
            masked_image_tasks(understanding_hidden_share=0.15),
            text_to_image=4,
            image_to_text=4,
            text_only=1,
        ),
        # Text is a seventh of a row: dropping it would save little.
        mod=MixtureOfDepths(same_for(_ROUTED, last_half(4, 0.3)), text_keep_ratio=1.0),
        data=DataConfig(batch_size=108, caption_tokens=9),
        training=TrainingConfig(
            steps=540,
            learning_rate=2.5e-3,
            beta2=0.98,
            warmup_steps=50,
            checkpoint_every=270,
        ),
        # Revealing the most certain codes first draws black and white only; at this
        # temperature the order is nearly random, and greys appear.
        sampling=SamplingConfig(guidance=1.5, temperature=30.0, num_steps=32),
    )
