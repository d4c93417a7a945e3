"""A published preset and a variant of it as an experiment at full size.

Architecture, objective, towers, routing, recipe and task shares are the preset's. The
data have the preset's counts and the codes of its image tokenizer, which a run is given
with `--image-tokenizer` (or takes from the converted model that it starts from), and
records of a name that nobody has prepared: `--data.name` names one's own. Devices are
for the command to name (`--mesh.data`, `--mesh.fsdp`, `--mesh.sequence`,
`--mesh.tensor`).
"""

import dataclasses
import math
from typing import Any

from unimod_jax.data import DataConfig, Vocabulary
from unimod_jax.layout import SPEECH, TEXT
from unimod_jax.objectives import INTERLEAVED, MaskedImage
from unimod_jax.presets import Preset, model_spec, preset
from unimod_jax.training import Experiment, TaskShares, TrainingConfig

RECORDS = "own_records"
"""Name of the data set that full-size experiments ask for; `--data.name` changes it."""

_GREY_LEVELS = 256
_PATCH_SIZE = 2  # latents; Transfusion (2408.11039, section 3)
_LATENT_SIZE = 8  # pixels; its autoencoder
_SPEECH_UNITS = 500  # 2411.04996, section 3.3
_TEXT_MARKERS = 4  # begin and end of a caption, begin and end of an image
_SPEECH_MARKERS = 2


def published(preset_name: str, variant: str, **changes: Any) -> Experiment:
    """The experiment that trains a preset in one of the papers' variants.

    Rows have the preset's counts: codes or patches of an image, caption slots, lines,
    and slots of interleaved rows.

    Args:
      preset_name: a name of `PRESETS`.
      variant: a name of `VARIANTS`.
      **changes: fields of the experiment to replace.

    Raises:
      ValueError: for unknown names, or a variant that does not apply to the preset.
    """
    chosen = preset(preset_name)
    spec = model_spec(chosen, variant)
    experiment = Experiment(
        objective=chosen.objective,
        model=chosen.model,
        mot=spec.towers,
        mod=spec.routing,
        data=_data(chosen),
        task_shares=_task_shares(chosen),
        training=TrainingConfig(**dataclasses.asdict(chosen.recipe)),
    )
    return dataclasses.replace(experiment, **changes)


def _task_shares(chosen: Preset) -> TaskShares:
    """Rows of each task.

    Show-o's tuning files (showlab/Show-o) divide a GPU's rows into 5 of generation, 5
    of understanding and 2 of language at 512 px, and 4, 6 and 2 at 256 px. UniMoD
    (2502.06474, section 5.1) trains Emu3 on both tasks, alike. Chameleon and
    Transfusion see interleaved rows only.
    """
    if INTERLEAVED in chosen.mean_tasks:
        return TaskShares(0, 0, 0, interleaved=1)
    if not isinstance(chosen.objective, MaskedImage):
        return TaskShares(text_to_image=1, image_to_text=1, text_only=0)
    if chosen.name == "show_o_256":
        return TaskShares(text_to_image=4, image_to_text=6, text_only=2)
    return TaskShares(text_to_image=5, image_to_text=5, text_only=2)


def _data(chosen: Preset) -> DataConfig:
    """Data whose rows have the preset's counts."""
    speech_units = _SPEECH_UNITS if SPEECH in chosen.model.modalities else 0
    image = _image(chosen)
    others = Vocabulary.native(0, image["image_levels"], speech_units).used
    data = DataConfig(
        name=RECORDS,
        label_feature="",
        image_channels=3,
        image_line=chosen.sizes.image_line,
        resize=True,
        caption_tokens=chosen.sizes.caption_tokens,
        text_vocabulary_size=chosen.model.vocabulary_size - others,
        batch_size=chosen.batch_rows,
        **image,
    )
    if INTERLEAVED not in chosen.mean_tasks:
        return data
    slots = dict(chosen.sizes.interleaved_slots)
    documents = chosen.sizes.interleaved_documents
    markers = _TEXT_MARKERS
    if speech_units:
        markers += _SPEECH_MARKERS
        data = dataclasses.replace(
            data,
            speech_feature="speech",
            speech_units=speech_units,
            speech_tokens=slots[SPEECH] // documents,
        )
    return dataclasses.replace(
        data,
        documents_per_row=documents,
        caption_tokens=slots[TEXT] // documents - markers,
    )


def _image(chosen: Preset) -> dict[str, Any]:
    """Images of as many codes, or patches of latents, as the preset's.

    Emu3's tokenizer has a code for 8 x 8 pixels (2409.18869, section 2.2), those of
    Show-o and Chameleon for 16 x 16.
    """
    side = math.isqrt(chosen.image_tokens)
    if chosen.patch_size:
        return {
            "image_size": side * _PATCH_SIZE * _LATENT_SIZE,
            "code_size": _LATENT_SIZE,
            "latent_channels": chosen.patch_size // _PATCH_SIZE**2,
            "patch_size": _PATCH_SIZE,
            "image_levels": _GREY_LEVELS,
        }
    pixels, codes = (8, 32_768) if chosen.sizes.image_line else (16, 8192)
    return {"image_size": side * pixels, "code_size": pixels, "image_levels": codes}


def with_grey_images(data: DataConfig, side: int) -> DataConfig:
    """Data whose images need no tokenizer: a code is a pixel, of 256 levels.

    Args:
      data: any.
      side: pixels, and codes, along a side of an image.
    """
    return dataclasses.replace(
        data,
        image_size=side,
        image_channels=1,
        image_levels=_GREY_LEVELS,
        image_line=side if data.image_line else 0,
        code_size=0,
        latent_channels=0,
    )
