"""Image diffusion beside next-token text (Transfusion, 2408.11039) on the digits.

Tests: patches as tokens, bidirectional images inside causal rows, denoising in place.
Run: python -m experiments.train toy/digits_diffusion
     python -m experiments.evaluate runs/toy/digits_diffusion
Expect: caption accuracy 0.95, generation accuracy 0.98; five minutes on two CPU cores.
"""

from unimod_jax.data import DataConfig
from unimod_jax.generation import SamplingConfig
from unimod_jax.layout import diffusion_tasks, shared
from unimod_jax.mod import last_half, same_for
from unimod_jax.models import MixtureOfDepths
from unimod_jax.objectives import ImageDiffusion
from unimod_jax.training import Experiment, TrainingConfig

_ROUTED = ("text_to_image", "image_to_text")


def experiment() -> Experiment:
    """The configuration."""
    return Experiment(
        objective=ImageDiffusion(),
        tasks=shared(diffusion_tasks(), text_to_image=4, image_to_text=4, text_only=1),
        mod=MixtureOfDepths(same_for(_ROUTED, last_half(4, 0.5))),
        data=DataConfig(batch_size=144, caption_tokens=9, patch_size=2),
        training=TrainingConfig(
            steps=1500, learning_rate=2e-3, beta2=0.98, checkpoint_every=500
        ),
        sampling=SamplingConfig(guidance=2.0, num_steps=50),
    )
