from unimod_jax.generation import SamplingConfig
from unimod_jax.models import MixtureOfDepths
from unimod_jax.objectives import ImageDiffusion
from unimod_jax.training import Experiment, TrainingConfig


def experiment() -> Experiment:
    """The configuration."""
    return Experiment(
        objective=ImageDiffusion(),
        mod=MixtureOfDepths(keep_ratio=0.5),
        data=DataConfig(batch_size=192, caption_tokens=9, patch_size=1),
        training=TrainingConfig(steps=1500, learning_rate=2e-3, checkpoint_every=500),
        sampling=SamplingConfig(guidance=1.5, num_steps=50),
    )
