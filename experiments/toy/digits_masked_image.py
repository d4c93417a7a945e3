"""Masked image codes with iterative decoding beside next-token text (Show-o) on the digits.

Tests: omni-attention as windows, top-k routing of whole images, MaskGIT decoding.
Run: python -m experiments.train toy/digits_masked_image
     python -m experiments.evaluate runs/toy/digits_masked_image
"""

from unimod_jax.data import DataConfig
from unimod_jax.generation import SamplingConfig
from unimod_jax.models import MixtureOfDepths
from unimod_jax.objectives import MaskedImage
from unimod_jax.training import Experiment, TrainingConfig


def experiment() -> Experiment:
    """The configuration."""
    return Experiment(
        objective=MaskedImage(),
        mod=MixtureOfDepths(keep_ratio=0.5),
        data=DataConfig(batch_size=96, caption_tokens=9),
        training=TrainingConfig(steps=1200, learning_rate=2e-3, checkpoint_every=400),
        sampling=SamplingConfig(guidance=2.0, temperature=1.0, num_steps=16),
    )
