"""Sections of two textbooks: text and figures in reading order, packed into rows.

Tests: documents as they are: any number of figures, cut between parts or inside texts
where they are longer than a row; towers and causal gates over packed rows; figures that
are denoised (Transfusion).
Run: python -m experiments.train interleaved/textbook --data.directory DIR --tiny
(DIR holds the unpacked archive: documents.jsonl and png/; see docs/custom_data.md.)
Expect: 0.94 of all slots filled; the tiny form's loss falls from 18 to 10 in 60 steps.
"""

from unimod_jax.data import DataConfig
from unimod_jax.data.textbook import DATA_SET
from unimod_jax.layout import IMAGE, TEXT, DocumentRows, Task
from unimod_jax.mod import last_half, same_for
from unimod_jax.models import MixtureOfDepths
from unimod_jax.objectives import ImageDiffusion
from unimod_jax.training import Experiment, TrainingConfig

_ROWS = DocumentRows(
    ((TEXT, 960), (IMAGE, 64)), bidirectional=(IMAGE,), captioned_time=0.5
)


def experiment() -> Experiment:
    """The configuration."""
    return Experiment(
        objective=ImageDiffusion(),
        # One token in twenty is of a figure, of 64 patches.
        tasks=(Task("interleaved", documents=_ROWS),),
        mod=MixtureOfDepths(same_for(("interleaved",), last_half(4, 0.5))),
        data=DataConfig(
            name=DATA_SET,
            parts=("parts",),
            attributes=(),
            image_size=32,
            image_channels=3,
            image_levels=256,
            patch_size=4,
            resize=True,
            text_vocabulary_size=1024,
            batch_size=8,
        ),
        training=TrainingConfig(steps=2000, checkpoint_every=500),
    )
