"""The tiny form of an experiment: the same ideas on the handwritten digits.

Architecture, objective, untying and routing stay as they are; sizes shrink until a
laptop trains the model in a minute. What a published setting does can then be tried,
tested and read before anyone pays for the real one.
"""

import dataclasses

from unimod_jax.data import OWN_RECORDS, DataConfig
from unimod_jax.data.handwritten_digits import DATA_SET as DIGITS
from unimod_jax.data.spoken_digits import LONGEST, NUM_UNITS
from unimod_jax.layout import IMAGE, SPEECH, TEXT, Task
from unimod_jax.models import MixtureOfTransformers, ModelConfig
from unimod_jax.objectives import ImageDiffusion, Objective
from unimod_jax.parallel import MeshConfig
from unimod_jax.training.experiment import Experiment

_NUM_HEADS = 4
_RECORDS_PER_STEP = 24
_DOCUMENTS_PER_ROW = 2
_CODES_PER_LINE = 8
_LONGEST_CAPTION = 9
"""Tokens of the longest caption of the digits."""
_TYPICAL_TEXT = 12
"""Tokens of a typical caption of the digits, with markers."""


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
        tasks=tuple(_small_rows(task, experiment) for task in experiment.tasks),
        data=_small_data(experiment),
        training=dataclasses.replace(
            experiment.training,
            steps=200,
            learning_rate=2e-3,
            final_learning_rate=4e-5,
            warmup_steps=20,
            checkpoint_every=200,
        ),
        mesh=MeshConfig(),
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


def _small_rows(task: Task, experiment: Experiment) -> Task:
    """The task with rows of documents for a few digits; other rows follow the data."""
    if task.documents is None or experiment.data.name not in (OWN_RECORDS, DIGITS):
        return task
    held = [name for name, _ in task.documents.slots]
    small = DataConfig()
    codes = small.num_image_codes
    if experiment.data.image_line:
        codes += codes // _CODES_PER_LINE
    image = small.num_patches if experiment.objective.continuous_images else codes
    of_document = {TEXT: _TYPICAL_TEXT, IMAGE: image, SPEECH: LONGEST}
    slots = tuple(
        (name, _DOCUMENTS_PER_ROW * count)
        for name, count in of_document.items()
        if name in held
    )
    documents = dataclasses.replace(
        task.documents, slots=slots, documents_per_row=_DOCUMENTS_PER_ROW
    )
    return dataclasses.replace(task, documents=documents)


def _small_data(experiment: Experiment) -> DataConfig:
    """The digits with what the experiment's data have: lines, speech.

    Data sets that come with the project stay, with a small batch.
    """
    batch_size = _small_batch(experiment.tasks)
    if experiment.data.name not in (OWN_RECORDS, DIGITS):
        return dataclasses.replace(experiment.data, batch_size=batch_size)
    spoken = SPEECH in experiment.model.modalities
    return DataConfig(
        parts=("image", "text=captions", *(("speech",) if spoken else ())),
        batch_size=batch_size,
        caption_tokens=_LONGEST_CAPTION,
        image_line=_CODES_PER_LINE if experiment.data.image_line else 0,
        speech_units=NUM_UNITS if spoken else 0,
        speech_tokens=LONGEST if spoken else 0,
    )


def _small_batch(tasks: tuple[Task, ...]) -> int:
    """Rows of few records, divided as the shares say; documents come several a row."""
    whole = sum(task.share for task in tasks)
    packed = sum(task.share for task in tasks if task.documents is not None)
    records = whole + (_DOCUMENTS_PER_ROW - 1) * packed
    return max(1, _RECORDS_PER_STEP // records) * whole
