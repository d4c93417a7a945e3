"""Next-token prediction of captions and image codes (Chameleon, Emu3) on the digits.

Tests: one causal model writes digits from captions, captions from digits, and text;
MoT towers, and causal gates in the last half of the layers.
Run: python -m experiments.train toy/digits_next_token
     python -m experiments.evaluate runs/toy/digits_next_token
Expect: caption accuracy 0.93, generation accuracy 0.90; three minutes on two CPU cores.
"""

from unimod_jax.data import DataConfig
from unimod_jax.generation import SamplingConfig
from unimod_jax.layout import next_token_tasks, shared
from unimod_jax.mod import last_half, same_for
from unimod_jax.models import MixtureOfDepths
from unimod_jax.objectives import NextToken
from unimod_jax.training import Experiment, TrainingConfig

_ROUTED = ("text_to_image", "image_to_text")


def experiment() -> Experiment:
    """The configuration."""
    return Experiment(
        objective=NextToken(),
        tasks=shared(next_token_tasks(), text_to_image=1, image_to_text=1, text_only=1),
        mod=MixtureOfDepths(same_for(_ROUTED, last_half(4, 0.4))),
        data=DataConfig(batch_size=96, caption_tokens=9),
        training=TrainingConfig(steps=600, learning_rate=2e-3, checkpoint_every=300),
        sampling=SamplingConfig(guidance=3.0, temperature=0.6),
    )
