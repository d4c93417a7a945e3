"""Training batches: each step takes a fixed number of rows of every task, with Grain.

Every task draws from the same records in an order of its own, reshuffled each epoch;
rows of documents follow a plan (`packing_plan`). Everything random (order, choice of
text, dropped prompts) is a pure function of the seed and the step, so the state of an
iterator is one number and resuming is exact.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.documents import Choices, fill
from unimod_jax.data.packed_rows import PackedRows
from unimod_jax.data.packing_plan import plan_seed
from unimod_jax.data.record_schema import DataError, Record
from unimod_jax.data.row_templates import RowTemplates, stack_rows
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.layout import (
    Document,
    InterleavedLayout,
    RowLayout,
    TaskLayout,
    TokenGroup,
    UnifiedBatch,
    with_segments,
)

if TYPE_CHECKING:
    import grain

logger = logging.getLogger(__name__)

PREFETCHED_STEPS = 4
"""Batches kept ready by a thread, so that a step does not wait for the host."""

ENDLESS_STEPS = 2**40
"""Zipped Grain data sets need equal lengths; nobody trains for this many steps."""


def training_batches(
    config: DataConfig,
    layouts: Mapping[str, RowLayout],
    rows: Mapping[str, int],
    records: Sequence[Record],
    tokenizer: TextTokenizer,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> "grain.IterDataset[UnifiedBatch]":
    """An endless data set of batches; `iter` of it is a checkpointable iterator.

    Args:
      config: seed, prompt dropout and image coding.
      layouts: task -> layout.
      rows: task -> rows per step, over all processes; the same tasks as `layouts`.
      records: of the train split.
      tokenizer: how captions become ids; it carries the vocabulary.
      process_index: which share of each step's rows this process makes.
      process_count: into how many shares they are divided. The rows of a step, all
        processes together, are the same for every process_count.

    Returns:
      Each element is a dict: task -> TokenGroup of NumPy arrays [rows / process_count,
      ...]. The iterator's get_state and set_state, or Orbax, save and resume it.

    Raises:
      DataError: if tasks and rows do not match or do not divide, or there are no
        records. Bad records raise it when they are reached.
    """
    import grain

    _check_rows(layouts, rows, records, process_count)
    tasks = []
    for task, layout in layouts.items():
        share = slice(process_index, rows[task] * ENDLESS_STEPS, process_count)
        one_by_one, stack = _rows_of(records, config, layout, tokenizer)
        rows_here = rows[task] // process_count
        tasks.append(one_by_one.slice(share).batch(rows_here, batch_fn=stack))
    return (
        grain.experimental.ZipMapDataset(tasks)
        .map(lambda groups: dict(zip(layouts, groups, strict=True)))
        .to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCHED_STEPS)
        )
    )


def skip_batches(iterator: Any, count: int) -> None:
    """Sets an iterator of `training_batches` to give the batch after so many.

    The rows of a step are the same for every number of processes, so the count is all
    there is to save, and a run may go on with another number of them.
    """
    iterator.set_state({"next_index": count})


def _rows_of(
    records: Sequence[Record],
    config: DataConfig,
    layout: RowLayout,
    tokenizer: TextTokenizer,
) -> "tuple[grain.MapDataset, Callable[[Sequence], TokenGroup]]":
    """A task's rows one by one, and the function that stacks a batch of them."""
    import grain

    if isinstance(layout, InterleavedLayout):
        rows = PackedRows(records, layout, config, tokenizer)
        logger.info("%s: %s", layout.task, rows.filling())
        return grain.MapDataset.source(rows), stack_rows  # pyright: ignore[reportArgumentType]
    segments = with_segments(layout)
    shuffled = (
        grain.MapDataset.source(records)
        .seed(plan_seed(config.seed, layout.task))
        .shuffle()
        .repeat()
    )
    documents = shuffled.random_map(_FillByChance(config, segments, tokenizer))
    return documents, RowTemplates(segments).stack


@dataclasses.dataclass(frozen=True)
class _FillByChance:
    """Makes a record a row, with texts by chance and perhaps no prompt."""

    config: DataConfig
    layout: TaskLayout
    tokenizer: TextTokenizer

    def __call__(self, record: Record, rng: np.random.Generator) -> Document:
        choices = Choices.drawn(record, self.config.prompt_dropout, rng)
        return fill(record, self.layout, self.config, self.tokenizer, choices)


def _check_rows(
    layouts: Mapping[str, RowLayout],
    rows: Mapping[str, int],
    records: Sequence[Record],
    process_count: int,
) -> None:
    if not layouts or set(layouts) != set(rows):
        raise DataError(
            f"layouts are for tasks {sorted(layouts)} but rows for {sorted(rows)}; "
            "give both for the same tasks."
        )
    for task, num_rows in rows.items():
        if num_rows < 1 or num_rows % process_count:
            raise DataError(
                f"task {task!r} has {num_rows} rows per step, which {process_count} "
                f"processes cannot share evenly; use a multiple of {process_count}."
            )
    if not len(records):
        raise DataError("there are no records to train on; choose another split.")
