"""Which pieces of which documents fill which row: a plan, made from lengths alone.

A row has a fixed number of slots for each modality. The plan of an epoch is a pure
function of the seed, the epoch and the documents' lengths, so the number of a row is
all that has to be known of it: there is no state to save, and any number of processes
make the same rows.

Documents are tried in an order drawn for each epoch, and each goes into the first open
row where it fits. One that is longer than a row is cut: each part but the last fills a
row as far as it goes. A cut falls between parts or inside a text, never inside an image
or an utterance, nor between one and its markers. Each part is a context of its own: its
first token is predicted by nothing. Every token stands in exactly one row.
"""

import bisect
import collections
import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unimod_jax.data.interleaving import DocumentChoices, PartLengths
from unimod_jax.data.record_schema import DataError
from unimod_jax.layout import TEXT, InterleavedDocument, Slots

OPEN_ROWS = 64
"""Most rows to fill at the same time: more waste less, and take longer to plan."""

_MARKERS = 2
"""Around an image or an utterance; and around a document."""


class Piece(NamedTuple):
    """Tokens [start, end) of a document, counted in its sequence."""

    document: int
    start: int
    end: int


type Row = tuple[Piece, ...]


class Unit(NamedTuple):
    """A stretch of a document: text, which may be cut, or what stays whole.

    Attributes:
      text: text tokens; of an image or utterance its two markers.
      modality: of what the markers enclose; "text" for text.
      enclosed: tokens between the markers; 0 for text.
    """

    text: int
    modality: str = TEXT
    enclosed: int = 0

    @property
    def num_tokens(self) -> int:
        """All of it."""
        return self.text + self.enclosed


def units_of(parts: Sequence[PartLengths], choices: DocumentChoices) -> list[Unit]:
    """A document's units in sequence order, its begin and end tokens among them."""
    alternative = iter(choices.texts)
    lengths = [
        part.lengths[next(alternative)] if part.modality == TEXT else part.lengths[0]
        for part in parts
    ]
    units = [Unit(1)]
    for place in choices.order:
        part, count = parts[place], lengths[place]
        if part.modality == TEXT:
            units.append(Unit(count))
        else:
            units.append(Unit(_MARKERS, part.modality, count))
    return [*units, Unit(1)]


def plan_rows(
    documents: Sequence[tuple[int, list[Unit]]],
    slots: Slots,
    names: Sequence[str],
    open_rows: int = OPEN_ROWS,
) -> list[Row]:
    """Packs documents into rows, first fit.

    Args:
      documents: (number, units) in the order they are tried.
      slots: modality and slots per row.
      names: of all documents by number, for messages.
      open_rows: most rows to keep open; the fullest is closed first.

    Returns:
      Rows in the order in which they were closed.

    Raises:
      DataError: naming the first document with an image or utterance that no row holds.
    """
    whole = dict(slots)
    rows: list[Row] = []
    open_: list[tuple[list[Piece], dict[str, int]]] = []
    for number, units in documents:
        for piece, count in _cut(number, units, whole, names[number]):
            row = next((row for row in open_ if _fits(count, row[1])), None)
            if row is None:
                row = ([], dict(whole))
                open_.append(row)
            held, left = row
            held.append(piece)
            for name, n in count.items():
                left[name] -= n
            if not left[TEXT]:
                open_.remove(row)
                rows.append(tuple(held))
            elif len(open_) > open_rows:
                fullest = min(open_, key=lambda row: sum(row[1].values()))
                open_.remove(fullest)
                rows.append(tuple(fullest[0]))
    return rows + [tuple(held) for held, _ in open_]


def _fits(count: Mapping[str, int], left: Mapping[str, int]) -> bool:
    return all(left[name] >= number for name, number in count.items())


def _cut(
    number: int, units: Sequence[Unit], whole: Mapping[str, int], name: str
) -> list[tuple[Piece, collections.Counter[str]]]:
    """The parts of a document, each as long as fits an empty row, and their tokens."""
    parts: list[tuple[Piece, collections.Counter[str]]] = []
    count: collections.Counter[str] = collections.Counter()
    start = end = 0

    def close() -> None:
        nonlocal start, count
        if end > start:
            parts.append((Piece(number, start, end), count))
        start, count = end, collections.Counter()

    for unit in units:
        if unit.modality != TEXT:
            _check_fits(unit, whole, name)
            if (
                count[TEXT] + unit.text > whole[TEXT]
                or count[unit.modality] + unit.enclosed > whole[unit.modality]
            ):
                close()
            count[TEXT] += unit.text
            count[unit.modality] += unit.enclosed
            end += unit.num_tokens
            continue
        left = unit.text
        while left:
            taken = min(left, whole[TEXT] - count[TEXT])
            count[TEXT] += taken
            end += taken
            left -= taken
            if left:
                close()
    close()
    return parts


def _check_fits(unit: Unit, whole: Mapping[str, int], name: str) -> None:
    if unit.enclosed > whole.get(unit.modality, 0) or unit.text > whole[TEXT]:
        raise DataError(
            f"{name} has {unit.enclosed} tokens of {unit.modality} that belong "
            f"together, but a row has {whole.get(unit.modality, 0)} slots for them "
            f"beside {whole[TEXT]} for text; enlarge the task's slots, or drop the "
            "record."
        )


def piece_of(document: InterleavedDocument, piece: Piece) -> InterleavedDocument:
    """The tokens of a document that a piece has."""
    spans, position = [], 0
    for span in document.spans:
        first = max(piece.start - position, 0)
        end = min(piece.end - position, span.num_tokens)
        position += span.num_tokens
        if first >= end:
            continue
        if span.patches is None and (first, end) != (0, span.num_tokens):
            span = dataclasses.replace(span, tokens=span.tokens[first:end])
        spans.append(span)
    name = f"tokens {piece.start} to {piece.end - 1} of {document.name}"
    return InterleavedDocument(tuple(spans), name)


@dataclasses.dataclass(frozen=True)
class Filling:
    """How full the rows of an epoch are.

    Attributes:
      rows: how many.
      tokens, slots: per modality, over all rows.
    """

    rows: int
    tokens: Mapping[str, int]
    slots: Mapping[str, int]

    @property
    def share(self) -> float:
        """Share of all slots that hold a token."""
        return sum(self.tokens.values()) / max(sum(self.slots.values()), 1)

    def share_of(self, modality: str) -> float:
        """Share of a modality's slots that hold a token."""
        return self.tokens.get(modality, 0) / max(self.slots[modality], 1)

    def __str__(self) -> str:
        """One line for logs."""
        each = ", ".join(f"{name} {self.share_of(name):.1%}" for name in self.slots)
        return (
            f"{self.rows} rows an epoch, {self.share:.1%} of their slots filled "
            f"({each})"
        )


class PackingPlan:
    """The rows of all epochs, by number; the same numbers give the same rows."""

    def __init__(
        self,
        lengths: Sequence[tuple[PartLengths, ...]],
        names: Sequence[str],
        slots: Slots,
        *,
        seed: int,
        shuffled_parts: bool,
        in_order: bool = False,
    ) -> None:
        """Plans nothing yet.

        Args:
          lengths: of the parts of each document.
          names: of the documents, for messages.
          slots: modality and slots per row.
          seed: of the order of documents, and of what chance decides about each.
          shuffled_parts: whether the order of a document's parts is drawn too.
          in_order: whether documents are tried in their own order in every epoch.
        """
        self._lengths, self._names, self._slots = lengths, names, slots
        self._seed, self._shuffled = seed, shuffled_parts
        self._in_order = in_order
        self._first_row = [0]
        self._rows_of = functools.lru_cache(2)(self._plan)

    def choices(self, epoch: int, document: int) -> DocumentChoices:
        """What chance decides about a document in an epoch."""
        rng = np.random.default_rng((self._seed, epoch, document))
        return DocumentChoices.drawn(self._lengths[document], self._shuffled, rng)

    def row(self, number: int) -> tuple[int, Row]:
        """(epoch, pieces) of a row, counted through all epochs."""
        while number >= self._first_row[-1]:
            epoch = len(self._first_row) - 1
            self._first_row.append(self._first_row[-1] + len(self._rows_of(epoch)))
        epoch = bisect.bisect_right(self._first_row, number) - 1
        return epoch, self._rows_of(epoch)[number - self._first_row[epoch]]

    def _plan(self, epoch: int) -> list[Row]:
        count = len(self._lengths)
        order = np.arange(count)
        if not self._in_order:
            order = np.random.default_rng((self._seed, epoch)).permutation(count)
        documents = [(int(n), self._units(epoch, int(n))) for n in order]
        return plan_rows(documents, self._slots, self._names)

    def _units(self, epoch: int, document: int) -> list[Unit]:
        return units_of(self._lengths[document], self.choices(epoch, document))

    def filling(self, epoch: int = 0) -> Filling:
        """How full the rows of an epoch are."""
        rows = self._rows_of(epoch)
        tokens: collections.Counter[str] = collections.Counter()
        for document in range(len(self._lengths)):
            for unit in self._units(epoch, document):
                tokens[TEXT] += unit.text
                tokens[unit.modality] += unit.enclosed
        slots = {name: count * len(rows) for name, count in self._slots}
        return Filling(len(rows), dict(+tokens), slots)


def plan_seed(seed: int, task: str) -> int:
    """A seed of its own for every task, whatever other tasks there are."""
    name = zlib.crc32(task.encode())
    return int(np.random.SeedSequence([seed, name]).generate_state(1)[0])
