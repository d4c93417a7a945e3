"""Batches made without chance: empty ones for shapes, and the first records."""

import itertools
from collections.abc import Mapping, Sequence

from unimod_jax.data.config import DataConfig
from unimod_jax.data.documents import Held, document, fill
from unimod_jax.data.packed_rows import PackedRows
from unimod_jax.data.record_schema import Record
from unimod_jax.data.row_templates import RowTemplates, stack_rows
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.layout import (
    InterleavedLayout,
    RowLayout,
    TokenGroup,
    UnifiedBatch,
    lay_out,
    lay_out_documents,
    with_segments,
)


def empty_rows(layouts: Mapping[str, RowLayout], config: DataConfig) -> UnifiedBatch:
    """One row of every task that shows nothing, for shapes."""
    return {
        task: stack_rows([_empty_row(layout, config)])
        for task, layout in layouts.items()
    }


def _empty_row(layout: RowLayout, config: DataConfig) -> TokenGroup:
    if isinstance(layout, InterleavedLayout):
        return lay_out_documents((), layout)
    segments = with_segments(layout)
    nothing = {s.name: Held.OPEN for s in segments.segments if not s.ids}
    return lay_out(document(nothing, segments, config, None), segments)


def first_rows(
    config: DataConfig,
    layouts: Mapping[str, RowLayout],
    rows: Mapping[str, int],
    records: Sequence[Record],
    tokenizer: TextTokenizer,
) -> UnifiedBatch:
    """A batch of the first records in order, from the start again where they run out.

    Args as for `training_batches`; of a text the first alternative is taken, and rows
    of documents are packed in the order of the records.

    Raises:
      DataError: if a record does not fit its row.
    """
    return {
        task: _first_of_task(config, layout, rows[task], records, tokenizer)
        for task, layout in layouts.items()
    }


def _first_of_task(
    config: DataConfig,
    layout: RowLayout,
    num_rows: int,
    records: Sequence[Record],
    tokenizer: TextTokenizer,
) -> TokenGroup:
    if isinstance(layout, InterleavedLayout):
        packed = PackedRows(records, layout, config, tokenizer, in_order=True)
        return stack_rows([packed[number] for number in range(num_rows)])
    segments = with_segments(layout)
    firsts = itertools.islice(itertools.cycle(records), num_rows)
    filled = [fill(record, segments, config, tokenizer) for record in firsts]
    return RowTemplates(segments).stack(filled)
