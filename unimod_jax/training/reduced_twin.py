"""The tiny form of an experiment: the same ideas on the handwritten digits.

Architecture, objective, untying and routing stay as they are; sizes shrink until a
laptop trains the model in a minute. What a published setting does can then be tried,
tested and read before anyone pays for the real one.
"""

import dataclasses

from unimod_jax.data import DataConfig
from unimod_jax.data.spoken_digits import LONGEST, NUM_UNITS
from unimod_jax.layout import SPEECH
from unimod_jax.models import MixtureOfTransformers, ModelConfig
from unimod_jax.objectives import ImageDiffusion, Objective
from unimod_jax.parallel import MeshConfig
from unimod_jax.training.experiment import Experiment, TaskShares

_NUM_HEADS = 4
_RECORDS_PER_STEP = 24
_DOCUMENTS_PER_ROW = 2
_CODES_PER_LINE = 8
_LONGEST_CAPTION = 9
"""Tokens of the longest caption of the digits."""


def reduced_twin(
    experiment: Experiment, *, width: int = 64, num_layers: int = 4
) -> Experiment:
    """An experiment on the digits with a small model of the same architecture.

    Args:
      experiment: of any size.
      width: D of the small model, a multiple of 16; it has four heads.
      num_layers: layers of the small model. Each routes as the layer at the same
        relative depth does (`mod.resampled`); untied layers move there too.

    Returns:
      200 steps of a small batch in float32 on one device. The recipe keeps what is not
      a matter of size: its schedule, betas, decay and clipping. Images get learned
      positions, without which 200 steps are too few.
    """
    old = experiment.model.num_layers
    return dataclasses.replace(
        experiment,
        objective=_of_pixels(experiment.objective),
        model=_reduced_model(experiment.model, width, num_layers),
        mot=_reduced_towers(experiment.mot, old, num_layers),
        mod=experiment.mod.at_depth(num_layers),
        data=_digits(experiment),
        training=dataclasses.replace(
            experiment.training,
            steps=200,
            learning_rate=2e-3,
            final_learning_rate=4e-5,
            warmup_steps=20,
            checkpoint_every=200,
        ),
        mesh=MeshConfig(),
        notation=None,
    )


def _of_pixels(objective: Objective) -> Objective:
    """The objective for images that are not latents; pixels have bounds."""
    if isinstance(objective, ImageDiffusion):
        return dataclasses.replace(objective, largest_value=1.0)
    return objective


def _reduced_model(config: ModelConfig, width: int, num_layers: int) -> ModelConfig:
    """Every flag as it is, every size small; the share of key heads is kept."""
    return dataclasses.replace(
        config,
        width=width,
        num_layers=num_layers,
        num_heads=_NUM_HEADS,
        num_kv_heads=max(1, _NUM_HEADS * config.num_kv_heads // config.num_heads),
        head_dim=width // _NUM_HEADS,
        feed_forward_hidden=4 * width if config.feed_forward == "gelu" else 0,
        vocabulary_size=0,
        image_positions=True,
        compute_dtype="float32",
        remat="nothing",
    )


def _reduced_towers(
    towers: MixtureOfTransformers, old: int, new: int
) -> MixtureOfTransformers:
    layers = _same_depth(towers.untied_layers, old, new)
    return dataclasses.replace(towers, untied_layers=layers)


def _same_depth[Name: str](
    layers: tuple[int, ...] | Name, old: int, new: int
) -> tuple[int, ...] | Name:
    """Layer numbers of a model of another depth, each once; a name stays."""
    if isinstance(layers, str):
        return layers
    return tuple(dict.fromkeys(layer * new // old for layer in layers))


def _digits(experiment: Experiment) -> DataConfig:
    """The digits with what the experiment's data have: lines, speech, documents."""
    spoken = {
        "speech_feature": "speech",
        "speech_units": NUM_UNITS,
        "speech_tokens": LONGEST,
    }
    return DataConfig(
        batch_size=_small_batch(experiment.task_shares),
        caption_tokens=_LONGEST_CAPTION,
        image_line=_CODES_PER_LINE if experiment.data.image_line else 0,
        documents_per_row=_DOCUMENTS_PER_ROW,
        **(spoken if SPEECH in experiment.model.modalities else {}),
    )


def _small_batch(shares: TaskShares) -> int:
    """Rows of few records, divided as the shares say; interleaved rows hold several."""
    whole = sum(dataclasses.astuple(shares))
    records = whole + (_DOCUMENTS_PER_ROW - 1) * shares.interleaved
    return max(1, _RECORDS_PER_STEP // records) * whole
