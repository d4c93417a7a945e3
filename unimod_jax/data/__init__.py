"""Data: from a prepared TFDS data set to batches of laid-out rows, on the host.

Reading order: `record_schema` (what an example is), `config`, `tfds_source` (where
records come from), `handwritten_digits` (the built-in ones), `vocabulary`,
`text_tokenizer`, `image_codec`, `documents` (what a task makes of a record),
`row_templates`, `mixture` (batches). Depends on `unimod_jax.layout` alone; TFDS, Grain
and the other heavy libraries are imported when they are first used.
"""

from unimod_jax.data.config import DataConfig
from unimod_jax.data.documents import document, fill
from unimod_jax.data.image_codec import (
    codes_to_pixels,
    load_png,
    patches_to_pixels,
    pixels_to_codes,
    pixels_to_patches,
)
from unimod_jax.data.mixture import training_batches
from unimod_jax.data.record_schema import DataError, Record, describe, validate_record
from unimod_jax.data.row_templates import RowTemplates
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.data.tfds_source import SplitRecords, open_split, prepare
from unimod_jax.data.vocabulary import Vocabulary

__all__ = [
    "DataConfig",
    "DataError",
    "Record",
    "RowTemplates",
    "SplitRecords",
    "TextTokenizer",
    "Vocabulary",
    "codes_to_pixels",
    "describe",
    "document",
    "fill",
    "load_png",
    "open_split",
    "patches_to_pixels",
    "pixels_to_codes",
    "pixels_to_patches",
    "prepare",
    "training_batches",
    "validate_record",
]
