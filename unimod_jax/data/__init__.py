"""Data: from a prepared TFDS data set to batches of laid-out rows, on the host.

Reading order: `record_schema` (what an example is), `config`, `tfds_source` (where
records come from), `handwritten_digits` (the built-in ones), `vocabulary`, `notation`,
`text_tokenizer`, `image_codec`, `image_codes`, `stored_codes`, `documents` and
`interleaving` (what a task makes of a record), `row_templates`, `mixture` (batches),
`example_rows`, `packing` (documents of any length into rows) and `packed_batches` (the
same for Grain, imported by its own name); `released` has the tables and tokenizers of
published models. Depends on `unimod_jax.layout` alone; TFDS, Grain and the other heavy
libraries are imported when they are first used.
"""

from unimod_jax.data.config import DataConfig
from unimod_jax.data.documents import (
    caption_ids,
    document,
    fill,
    image_ids,
    question_ids,
)
from unimod_jax.data.example_rows import empty_rows, first_rows
from unimod_jax.data.image_codec import (
    codes_to_pixels,
    load_png,
    open_picture,
    patches_to_latents,
    patches_to_pixels,
    pixels_to_codes,
    pixels_to_patches,
)
from unimod_jax.data.image_codes import (
    CodedRecords,
    GreyLevels,
    ImageCodec,
    LearnedCodec,
    LearnedLatents,
    encode_batch,
    encode_records,
)
from unimod_jax.data.interleaving import interleave, worst_case_slots
from unimod_jax.data.mixture import skip_batches, training_batches
from unimod_jax.data.notation import Notation
from unimod_jax.data.packing import CountBuckets, PackedRow, PackingReport, pack
from unimod_jax.data.record_schema import (
    DataError,
    Record,
    Records,
    describe,
    validate_record,
)
from unimod_jax.data.row_templates import RowTemplates, stack_rows
from unimod_jax.data.stored_codes import StoredCodes, codes_folder, make_parts
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.data.tfds_source import SplitRecords, open_split, prepare
from unimod_jax.data.vocabulary import Vocabulary

__all__ = [
    "CodedRecords",
    "CountBuckets",
    "DataConfig",
    "DataError",
    "GreyLevels",
    "ImageCodec",
    "LearnedCodec",
    "LearnedLatents",
    "Notation",
    "PackedRow",
    "PackingReport",
    "Record",
    "Records",
    "RowTemplates",
    "SplitRecords",
    "StoredCodes",
    "TextTokenizer",
    "Vocabulary",
    "caption_ids",
    "codes_folder",
    "codes_to_pixels",
    "describe",
    "document",
    "empty_rows",
    "encode_batch",
    "encode_records",
    "fill",
    "first_rows",
    "image_ids",
    "interleave",
    "load_png",
    "make_parts",
    "open_picture",
    "open_split",
    "pack",
    "patches_to_latents",
    "patches_to_pixels",
    "pixels_to_codes",
    "pixels_to_patches",
    "prepare",
    "question_ids",
    "skip_batches",
    "stack_rows",
    "training_batches",
    "validate_record",
    "worst_case_slots",
]
