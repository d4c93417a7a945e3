"""Data: from a prepared TFDS data set to batches of laid-out rows, on the host.

Reading order: `record_schema` (what an example is), `config`, `record_reader` (from the
features of a data set), `tfds_source` (where records come from), `handwritten_digits`
(the built-in ones), `vocabulary`, `text_tokenizer`, `image_codec`, `image_codes`,
`stored_codes`, `documents` (what a task makes of a record), `row_templates`,
`interleaving`, `packing_plan` and `packed_rows` (documents of any length into rows),
`mixture` (batches), `example_rows`, `judge` (of what models write); `released` has the
tables and tokenizers of published models. Depends on `unimod_jax.layout` alone; TFDS,
Grain and the other heavy libraries are imported when they are first used.
"""

from unimod_jax.data.config import OWN_RECORDS, DataConfig
from unimod_jax.data.documents import (
    Choices,
    Held,
    Value,
    document,
    fill,
    image_ids,
    record_values,
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
    encode_images,
    first_images,
    with_codes,
)
from unimod_jax.data.interleaving import (
    DocumentChoices,
    PartLengths,
    interleave,
    part_lengths,
)
from unimod_jax.data.judge import Judge, Verdict, Written, open_judge
from unimod_jax.data.mixture import skip_batches, training_batches
from unimod_jax.data.packed_rows import PackedRows
from unimod_jax.data.packing_plan import Filling, PackingPlan, plan_rows
from unimod_jax.data.record_reader import read_record
from unimod_jax.data.record_schema import (
    DataError,
    Image,
    Part,
    Record,
    Records,
    Speech,
    Text,
    describe,
)
from unimod_jax.data.row_templates import RowTemplates, stack_rows
from unimod_jax.data.stored_codes import StoredCodes, codes_folder, make_parts
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.data.tfds_source import SplitRecords, open_split, prepare
from unimod_jax.data.vocabulary import Vocabulary

__all__ = [
    "OWN_RECORDS",
    "Choices",
    "CodedRecords",
    "DataConfig",
    "DataError",
    "DocumentChoices",
    "Filling",
    "GreyLevels",
    "Held",
    "Image",
    "ImageCodec",
    "Judge",
    "LearnedCodec",
    "LearnedLatents",
    "PackedRows",
    "PackingPlan",
    "Part",
    "PartLengths",
    "Record",
    "Records",
    "RowTemplates",
    "Speech",
    "SplitRecords",
    "StoredCodes",
    "Text",
    "TextTokenizer",
    "Value",
    "Verdict",
    "Vocabulary",
    "Written",
    "codes_folder",
    "codes_to_pixels",
    "describe",
    "document",
    "empty_rows",
    "encode_batch",
    "encode_images",
    "fill",
    "first_images",
    "first_rows",
    "image_ids",
    "interleave",
    "load_png",
    "make_parts",
    "open_judge",
    "open_picture",
    "open_split",
    "part_lengths",
    "patches_to_latents",
    "patches_to_pixels",
    "pixels_to_codes",
    "pixels_to_patches",
    "plan_rows",
    "prepare",
    "read_record",
    "record_values",
    "skip_batches",
    "stack_rows",
    "training_batches",
    "with_codes",
]
