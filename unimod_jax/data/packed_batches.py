"""Packed rows as an endless or finite Grain data set, resumed exactly.

Rows wait in their bucket until there are enough for a batch, so every batch is of one
layout. At the end, rows that still wait are sent off with empty rows beside them.

Documents are read by index, so the state is only which of them stand in rows that were
not sent off yet. Every process packs all documents and keeps its share of each batch:
all processes send off the same bucket at the same step.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import grain

from unimod_jax.data.packing import CountBuckets, FirstFit, PackedRow, pieces_of
from unimod_jax.data.record_schema import DataError
from unimod_jax.data.row_templates import stack_rows
from unimod_jax.layout import (
    InterleavedDocument,
    InterleavedLayout,
    SpecialTokens,
    TokenGroup,
    lay_out_documents,
)


class PackedBatches(grain.IterDataset[TokenGroup]):
    """Documents as batches of packed rows."""

    def __init__(
        self,
        documents: Sequence[InterleavedDocument],
        layouts: Sequence[InterleavedLayout],
        batch_size: int,
        *,
        open_rows: int,
        split_text: bool = False,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Reads nothing yet.

        Args:
          documents: by index, always the same: a list or a `grain.MapDataset`, which
            may be shuffled and repeated.
          layouts: one per bucket, all of the same row length.
          batch_size: rows of a batch, over all processes.
          open_rows: most rows to fill at the same time; more waste less.
          split_text: whether documents longer than a row are cut at text tokens.
          process_index: which share of each batch this process makes.
          process_count: into how many shares batches are divided.

        Raises:
          DataError: if the layouts differ in length, or the batch does not divide.
        """
        super().__init__()
        if batch_size < 1 or open_rows < 1 or batch_size % process_count:
            raise DataError(
                f"batch_size {batch_size} and open_rows {open_rows} must be positive, "
                f"and {process_count} processes share a batch; use a multiple."
            )
        slots = tuple(layout.slots for layout in layouts)
        self.buckets = CountBuckets(
            layouts[0].row_length if layouts else 0,
            slots,
            layouts[0].special if layouts else SpecialTokens(),
        )
        self.documents = documents
        self.layouts = tuple(layouts)
        self.batch_size = batch_size
        self.open_rows = open_rows
        self.split_text = split_text
        self.share = slice(process_index, None, process_count)

    def __iter__(self) -> "PackedBatchIterator":
        """A checkpointable iterator from the first document."""
        return PackedBatchIterator(self)


class PackedBatchIterator(grain.DatasetIterator[TokenGroup]):
    """The iterator of `PackedBatches`; raises DataError for a document too long."""

    def __init__(self, dataset: PackedBatches) -> None:
        """Starts before the first document."""
        super().__init__()
        self._dataset = dataset
        self._begin()

    def _begin(self) -> None:
        self._next_document = 0
        self._finished = False
        self._first_fit = FirstFit(self._dataset.buckets, self._dataset.open_rows)
        self._waiting: list[list[PackedRow]] = [[] for _ in self._dataset.layouts]
        # Where the documents in open and waiting rows come from: (index, piece).
        self._origin: dict[InterleavedDocument, tuple[int, int]] = {}

    def __next__(self) -> TokenGroup:
        """The next batch: a group of NumPy arrays with one of the layouts."""
        while True:
            least = 1 if self._finished else self._dataset.batch_size
            for bucket, rows in enumerate(self._waiting):
                if len(rows) >= least:
                    return self._send(bucket)
            if self._finished:
                raise StopIteration
            self._read_one()

    def _read_one(self) -> None:
        dataset, index = self._dataset, self._next_document
        if index >= len(dataset.documents):
            self._finished = True
            rows = list(self._first_fit.finish())
        else:
            rows = []
            for number, piece in enumerate(self._pieces(index)):
                self._origin[piece] = (index, number)
                rows += self._first_fit.add(piece)
            self._next_document += 1
        for row in rows:
            self._waiting[row.bucket].append(row)

    def _pieces(self, index: int) -> Sequence[InterleavedDocument]:
        dataset = self._dataset
        document = dataset.documents[index]
        pieces = pieces_of(document, dataset.buckets, dataset.split_text)
        # Copies: the same document may stand at several indices.
        return [dataclasses.replace(piece) for piece in pieces]

    def _send(self, bucket: int) -> TokenGroup:
        size, layout = self._dataset.batch_size, self._dataset.layouts[bucket]
        rows = self._waiting[bucket][:size]
        del self._waiting[bucket][:size]
        for row in rows:
            for document in row.documents:
                del self._origin[document]
        rows += [PackedRow((), bucket)] * (size - len(rows))
        share = rows[self._dataset.share]
        return stack_rows([lay_out_documents(row.documents, layout) for row in share])

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on, as JSON: which documents are not sent off yet."""
        rows = {
            "open": [self._origins(row) for row in self._first_fit.rows],
            "waiting": [
                [self._origins(row.documents) for row in rows] for rows in self._waiting
            ],
        }
        return {
            "next_document": self._next_document,
            "finished": self._finished,
            "rows": json.dumps(rows),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where a state was taken."""
        self._begin()
        rows = json.loads(state["rows"])
        self._next_document = int(state["next_document"])
        self._finished = bool(state["finished"])
        for origins in rows["open"]:
            self._first_fit.reopen(self._documents_at(origins))
        for bucket, waiting in enumerate(rows["waiting"]):
            self._waiting[bucket] = [
                PackedRow(tuple(self._documents_at(row)), bucket) for row in waiting
            ]

    def _origins(self, documents: Sequence[InterleavedDocument]) -> list[list[int]]:
        return [list(self._origin[document]) for document in documents]

    def _documents_at(self, origins: list[list[int]]) -> list[InterleavedDocument]:
        documents = []
        for index, number in origins:
            piece = self._pieces(index)[number]
            self._origin[piece] = (index, number)
            documents.append(piece)
        return documents
