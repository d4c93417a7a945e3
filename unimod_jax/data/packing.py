"""Packing documents of any length into rows of static counts: first fit, nothing lost.

A row has a fixed number of slots per modality (a *bucket*); with several buckets a row
takes the first that fits what it holds, and each bucket is a program of its own. Every
document goes into the first open row where it still fits. Images and speech are never
cut; text may be, where a document is longer than a row.

How much can be wasted follows from one observation. A row stays behind only when some
document did not fit it, so in every bucket some modality had fewer free slots than that
document has tokens of it. With u the most tokens of a modality in any document, each
row but the last opened holds at least `slots - u + 1` tokens of some modality, for each
bucket. This bounds the waste well when documents are small and need modalities in the
buckets' proportions; if not, measure: the report says what was wasted, too.

Grain's FirstFitPackIterDataset packs features of several lengths together as well, but
knows one bucket, and sends all open rows off as soon as one document fits none of them.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from unimod_jax.data.record_schema import DataError
from unimod_jax.data.splitting import split_document
from unimod_jax.layout import InterleavedDocument, Slots, SpecialTokens


@dataclasses.dataclass(frozen=True)
class CountBuckets:
    """The signatures that rows may have.

    Attributes:
      row_length: slots per row, the same in every bucket.
      buckets: slots per modality, one program each; the first that fits is used.
      special: the markers that stay with what they open or close.
    """

    row_length: int
    buckets: tuple[Slots, ...]
    special: SpecialTokens = SpecialTokens()

    def __post_init__(self) -> None:
        """Checks that there is a bucket and that each has `row_length` slots."""
        lengths = [sum(count for _, count in slots) for slots in self.buckets]
        if not lengths or set(lengths) != {self.row_length}:
            raise DataError(
                f"buckets have {lengths} slots but row_length is {self.row_length}; "
                "give at least one bucket, and each that many slots."
            )

    @classmethod
    def single(cls, slots: Slots) -> "CountBuckets":
        """Fixed counts: one bucket."""
        return cls(sum(count for _, count in slots), (slots,))

    def fitting(self, count: Mapping[str, int]) -> int | None:
        """Index of the first bucket with enough slots of everything, or None."""
        for index, slots in enumerate(self.buckets):
            if not excess(count, slots):
                return index
        return None

    def modalities(self) -> tuple[str, ...]:
        """Every modality that some bucket has."""
        return tuple(dict.fromkeys(name for slots in self.buckets for name, _ in slots))


def excess(count: Mapping[str, int], slots: Slots) -> dict[str, int]:
    """How many tokens of which modality are too many for some slots."""
    room = dict(slots)
    return {
        modality: number - room.get(modality, 0)
        for modality, number in count.items()
        if number > room.get(modality, 0)
    }


@dataclasses.dataclass(frozen=True)
class PackedRow:
    """Documents that share a row, in order, and the bucket they fit."""

    documents: tuple[InterleavedDocument, ...]
    bucket: int

    def num_tokens(self) -> collections.Counter[str]:
        """Tokens per modality."""
        count: collections.Counter[str] = collections.Counter()
        for document in self.documents:
            count.update(document.num_tokens())
        return count


class FirstFit:
    """Rows being filled; documents go in one by one, finished rows come out."""

    def __init__(self, buckets: CountBuckets, open_rows: int | None = None) -> None:
        """Starts without rows.

        Args:
          buckets: what rows may hold.
          open_rows: most rows to keep open, the oldest is finished first; None for any
            number.
        """
        self._buckets = buckets
        self._most = open_rows
        self.rows: list[list[InterleavedDocument]] = []
        self._counts: list[collections.Counter[str]] = []

    def add(self, document: InterleavedDocument) -> list[PackedRow]:
        """Puts a document into the first open row it fits, or else into a new one.

        Returns:
          The rows that are finished now: at most one.

        Raises:
          DataError: if the document does not fit an empty row.
        """
        count = collections.Counter(document.num_tokens())
        for row, held in zip(self.rows, self._counts, strict=True):
            if self._buckets.fitting(held + count) is not None:
                row.append(document)
                held.update(count)
                return []
        if self._buckets.fitting(count) is None:
            raise _too_long(document, self._buckets)
        self.rows.append([document])
        self._counts.append(count)
        too_many = self._most is not None and len(self.rows) > self._most
        return [self._finish_oldest()] if too_many else []

    def reopen(self, documents: Sequence[InterleavedDocument]) -> None:
        """Adds an open row as it was before, after those that are open."""
        self.rows.append(list(documents))
        self._counts.append(PackedRow(tuple(documents), 0).num_tokens())

    def finish(self) -> Iterator[PackedRow]:
        """Finishes all open rows, oldest first."""
        while self.rows:
            yield self._finish_oldest()

    def _finish_oldest(self) -> PackedRow:
        documents = tuple(self.rows.pop(0))
        bucket = self._buckets.fitting(self._counts.pop(0))
        assert bucket is not None  # `add` lets nothing in that does not fit
        return PackedRow(documents, bucket)


def pieces_of(
    document: InterleavedDocument, buckets: CountBuckets, split_text: bool
) -> Sequence[InterleavedDocument]:
    """The document itself, or its parts if it is longer than a row.

    Args:
      document: to be packed.
      buckets: what rows may hold.
      split_text: whether text may be cut at any token. Each part is a context of its
        own: its first token is predicted by nothing.

    Raises:
      DataError: if the document is too long and may not or cannot be split.
    """
    if buckets.fitting(document.num_tokens()) is not None:
        return [document]
    parts = (
        split_document(document, buckets.buckets, buckets.special)
        if split_text
        else None
    )
    if parts is None:
        raise _too_long(document, buckets)
    return parts


@dataclasses.dataclass(frozen=True)
class PackingReport:
    """What packing wasted, and the most it could have.

    Attributes:
      rows: how many rows, empty ones too.
      rows_per_bucket: the same for each bucket.
      tokens: tokens per modality.
      slots: slots per modality over all rows.
      waste_bound: no packing of documents of these largest counts into as many rows
        wastes a larger share of the slots than this.
    """

    rows: int
    rows_per_bucket: tuple[int, ...]
    tokens: Mapping[str, int]
    slots: Mapping[str, int]
    waste_bound: float

    @classmethod
    def of(cls, rows: Sequence[PackedRow], buckets: CountBuckets) -> "PackingReport":
        """The report of all rows of a packing."""
        tokens = {name: 0 for name in buckets.modalities()}
        slots, largest = dict(tokens), dict(tokens)
        per_bucket = collections.Counter(row.bucket for row in rows)
        for row in rows:
            for document in row.documents:
                for name, number in document.num_tokens().items():
                    tokens[name] += number
                    largest[name] = max(largest[name], number)
        for bucket, number in per_bucket.items():
            for name, count in buckets.buckets[bucket]:
                slots[name] += count * number
        held = sum(bool(row.documents) for row in rows)
        least = max(held - 1, 0) * fewest_tokens(buckets, largest)
        all_slots = max(len(rows) * buckets.row_length, 1)
        return cls(
            len(rows),
            tuple(per_bucket[bucket] for bucket in range(len(buckets.buckets))),
            tokens,
            slots,
            1.0 - least / all_slots if rows else 0.0,
        )

    def waste_of(self, modality: str) -> float:
        """Share of a modality's slots that hold no token."""
        slots = self.slots[modality]
        return 1.0 - self.tokens[modality] / slots if slots else 0.0

    @property
    def waste(self) -> float:
        """Share of all slots that hold no token."""
        slots = sum(self.slots.values())
        return 1.0 - sum(self.tokens.values()) / slots if slots else 0.0

    def __str__(self) -> str:
        """One line for logs."""
        parts = ", ".join(f"{name} {self.waste_of(name):.1%}" for name in self.slots)
        return (
            f"{self.rows} rows, {self.waste:.1%} of the slots empty ({parts}; "
            f"never more than {self.waste_bound:.1%})"
        )


def fewest_tokens(buckets: CountBuckets, largest: Mapping[str, int]) -> int:
    """The fewest tokens of a row that some document of these counts did not fit.

    For each bucket some modality holds at least `slots - largest + 1` tokens. One
    modality may serve several buckets, so all ways to choose are tried.

    Args:
      buckets: what rows may hold.
      largest: the most tokens of each modality in any document.
    """
    names = [name for name in buckets.modalities() if largest.get(name)]
    if not names:
        return 0
    reached = [
        [max(dict(slots).get(name, 0) - largest[name] + 1, 0) for name in names]
        for slots in buckets.buckets
    ]
    levels = [sorted({0, *column}) for column in zip(*reached, strict=True)]
    return min(
        sum(held)
        for held in itertools.product(*levels)
        if all(
            any(number >= least for number, least in zip(held, bucket, strict=True))
            for bucket in reached
        )
    )


def pack(
    documents: Iterable[InterleavedDocument],
    buckets: CountBuckets | Slots,
    *,
    open_rows: int | None = None,
    split_text: bool = False,
) -> tuple[list[PackedRow], PackingReport]:
    """Packs documents into rows, first fit; every token ends up in exactly one row.

    Args:
      documents: in the order they are tried.
      buckets: what rows may hold; bare slots are a single bucket.
      open_rows: most rows to keep open; None for any number.
      split_text: whether documents longer than a row are cut at text tokens.

    Returns:
      Rows in the order they were finished, and what they waste.

    Raises:
      DataError: if a document is longer than a row and may not or cannot be split.
    """
    if not isinstance(buckets, CountBuckets):
        buckets = CountBuckets.single(buckets)
    first_fit = FirstFit(buckets, open_rows)
    rows: list[PackedRow] = []
    for document in documents:
        for piece in pieces_of(document, buckets, split_text):
            rows += first_fit.add(piece)
    rows += first_fit.finish()
    return rows, PackingReport.of(rows, buckets)


def _too_long(document: InterleavedDocument, buckets: CountBuckets) -> DataError:
    """The refusal, in terms of the bucket that comes closest."""
    count = document.num_tokens()
    nearest = min(buckets.buckets, key=lambda slots: sum(excess(count, slots).values()))
    over = excess(count, nearest)
    modality = max(over, key=lambda name: over[name])
    return DataError(
        f"{document.name} has {count[modality]} {modality} tokens but a row has "
        f"{dict(nearest).get(modality, 0)} slots for them; enlarge the row, shorten "
        "the document, or split its text if that is what is too long."
    )
