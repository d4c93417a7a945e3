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

from unimod_jax.data import OWN_RECORDS, DataConfig, Vocabulary
from unimod_jax.layout import SPEECH
from unimod_jax.presets import Preset, model_spec, preset
from unimod_jax.training import Experiment, TrainingConfig

_GREY_LEVELS = 256
_PATCH_SIZE = 2  # latents; Transfusion (2408.11039, section 3)
_LATENT_SIZE = 8  # pixels; its autoencoder
_SPEECH_UNITS = 500  # 2411.04996, section 3.3


def published(preset_name: str, variant: str, **changes: Any) -> Experiment:
    """The experiment that trains a preset in one of the papers' variants.

    Rows have the preset's counts: codes or patches of an image, caption slots, lines,
    and slots of rows of documents.

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
        tasks=chosen.tasks,
        training=TrainingConfig(**dataclasses.asdict(chosen.recipe)),
    )
    return dataclasses.replace(experiment, **changes)


def _data(chosen: Preset) -> DataConfig:
    """Data whose rows have the preset's counts."""
    speech_units = _SPEECH_UNITS if SPEECH in chosen.model.modalities else 0
    image = _image(chosen)
    others = Vocabulary.native(0, image["image_levels"], speech_units).used
    parts = ("image", "text", *(("speech",) if speech_units else ()))
    return DataConfig(
        name=OWN_RECORDS,
        parts=parts,
        attributes=(),
        image_channels=3,
        image_line=chosen.sizes.image_line,
        resize=True,
        caption_tokens=chosen.sizes.text_tokens,
        speech_units=speech_units,
        speech_tokens=_speech_slots(chosen),
        text_vocabulary_size=chosen.model.vocabulary_size - others,
        batch_size=chosen.batch_rows,
        **image,
    )


def _speech_slots(chosen: Preset) -> int:
    """Units of the longest utterance that fits rows of documents."""
    rows = [task.documents for task in chosen.tasks if task.documents is not None]
    return max((dict(each.slots).get(SPEECH, 0) for each in rows), default=0)


def _image(chosen: Preset) -> dict[str, Any]:
    """Images of as many codes, or patches of latents, as the preset's.

    Emu3's tokenizer has a code for 8 x 8 pixels (2409.18869, section 2.2), those of
    Show-o and Chameleon for 16 x 16.
    """
    side = math.isqrt(chosen.sizes.image_codes or chosen.sizes.image_patches)
    if chosen.sizes.continuous:
        return {
            "image_size": side * _PATCH_SIZE * _LATENT_SIZE,
            "code_size": _LATENT_SIZE,
            "latent_channels": chosen.sizes.patch_size // _PATCH_SIZE**2,
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
