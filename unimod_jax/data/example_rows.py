"""Batches made without chance: empty ones for shapes, and the first records."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.documents import document, fill
from unimod_jax.data.interleaving import interleave
from unimod_jax.data.record_schema import Record
from unimod_jax.data.row_templates import RowTemplates, stack_rows
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.data.vocabulary import Vocabulary
from unimod_jax.layout import (
    InterleavedLayout,
    RowLayout,
    TokenGroup,
    UnifiedBatch,
    lay_out,
    lay_out_documents,
    with_segments,
)


def empty_rows(
    layouts: Mapping[str, RowLayout], config: DataConfig, vocabulary: Vocabulary
) -> UnifiedBatch:
    """One row of every task that shows nothing, for shapes."""
    return {
        task: stack_rows([_empty_row(layout, config, vocabulary)])
        for task, layout in layouts.items()
    }


def _empty_row(
    layout: RowLayout, config: DataConfig, vocabulary: Vocabulary
) -> TokenGroup:
    if isinstance(layout, InterleavedLayout):
        return lay_out_documents((), layout)
    segments = with_segments(layout)
    nothing = document(segments, config, vocabulary, caption_ids=None, image=None)
    return lay_out(nothing, segments)


def first_rows(
    config: DataConfig,
    layouts: Mapping[str, RowLayout],
    rows: Mapping[str, int],
    records: Sequence[Record],
    tokenizer: TextTokenizer,
) -> UnifiedBatch:
    """A batch of the first records in order, from the start again where they run out.

    Args as for `training_batches`; interleaved rows have the order of parts of a fixed
    seed.

    Raises:
      DataError: if a record does not fit its row.
    """
    return {
        task: _first_of_task(
            config, layout, rows[task], itertools.cycle(records), tokenizer
        )
        for task, layout in layouts.items()
    }


def _first_of_task(
    config: DataConfig,
    layout: RowLayout,
    num_rows: int,
    records: "itertools.cycle[Record]",
    tokenizer: TextTokenizer,
) -> TokenGroup:
    if not isinstance(layout, InterleavedLayout):
        segments = with_segments(layout)
        firsts = itertools.islice(records, num_rows)
        filled = [fill(record, segments, config, tokenizer) for record in firsts]
        return RowTemplates(segments).stack(filled)
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(num_rows):
        firsts = itertools.islice(records, config.documents_per_row)
        documents = [
            interleave(record, layout, config, tokenizer, rng) for record in firsts
        ]
        rows.append(lay_out_documents(documents, layout))
    return stack_rows(rows)
