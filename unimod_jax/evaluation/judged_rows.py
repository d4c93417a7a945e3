"""What a run writes in the rows of held-out records, and what a judge says of it.

Each task whose rows show something and leave something to write is given the shown part
of held-out records. What it writes is judged beside what stands there in the data.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from unimod_jax.data import (
    Held,
    Image,
    Judge,
    Part,
    Record,
    Text,
    Value,
    Verdict,
    Written,
    record_values,
)
from unimod_jax.evaluation.sampler import Sampler
from unimod_jax.layout import IMAGE, TEXT, SegmentSpec, TaskLayout

KINDS = ("caption", "generation", "transcription", "speech", "text")
"""What is written, given what: a text about an image, an image, a text about speech,
speech, a text about texts. An accuracy of each is a headline of summary.json."""


@dataclasses.dataclass(frozen=True, eq=False)
class JudgedPiece:
    """One piece of a task's rows, written for held-out records.

    Attributes:
      task: its name.
      piece: the piece that was written.
      modality: of the piece.
      shown: what each row showed before, by piece.
      written: what was written in each row.
      real: the part of each record that stands there in the data.
      verdicts: on each row; None where nobody judged it.
    """

    task: str
    piece: str
    modality: str
    shown: Sequence[Mapping[str, Value]]
    written: Sequence[Written]
    real: Sequence[Part]
    verdicts: Sequence[Verdict | None]

    @property
    def name(self) -> str:
        """The task and the piece, as "image_to_text/caption"."""
        return f"{self.task}/{self.piece}"

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.modality != TEXT:
            return "generation" if self.modality == IMAGE else "speech"
        shown = self.shown[0].values() if self.shown else ()
        if any(isinstance(value, Image) for value in shown):
            return "caption"
        only_texts = all(isinstance(value, str | Held) for value in shown)
        return "text" if only_texts else "transcription"

    @property
    def right(self) -> list[bool]:
        """Of the rows that were judged, in order, whether each is right."""
        return [verdict.right for verdict in self.verdicts if verdict]

    @property
    def accuracy(self) -> float | None:
        """Share of the judged rows that is right; None if there are none."""
        return float(np.mean(self.right)) if self.right else None

    def by_wanted(self) -> dict[str, list[int]]:
        """What was wanted -> the rows where it was, of those that were judged."""
        rows: dict[str, list[int]] = {}
        for row, verdict in enumerate(self.verdicts):
            if verdict:
                rows.setdefault(verdict.wanted, []).append(row)
        return dict(sorted(rows.items()))

    def per_wanted(self) -> dict[str, float]:
        """What was wanted -> share of it that is right."""
        verdicts = [verdict for verdict in self.verdicts if verdict]
        return {
            wanted: float(np.mean([v.right for v in verdicts if v.wanted == wanted]))
            for wanted in self.by_wanted()
        }


def judged(
    judge: Judge | None, records: Sequence[Record], **piece: object
) -> JudgedPiece:
    """A piece with the judge's verdicts, one for each record; see `JudgedPiece`."""
    unjudged = JudgedPiece(**piece, verdicts=())  # pyright: ignore[reportArgumentType]
    verdicts = [
        judge(record, part, written) if judge else None
        for record, part, written in zip(
            records, unjudged.real, unjudged.written, strict=True
        )
    ]
    return dataclasses.replace(unjudged, verdicts=verdicts)


def write_rows(
    sampler: Sampler,
    layout: TaskLayout,
    records: Sequence[Record],
    judge: Judge | None,
    seed: int,
) -> list[JudgedPiece]:
    """Has a task's rows written for records, and judged.

    Args:
      sampler: of the run.
      layout: of the task.
      records: held out; those that lack a part that is to be written are left out.
      judge: of what is written; None to show it only.
      seed: as of `Sampler.write`.

    Returns:
      One for each written piece, in the order of the row.
    """
    pieces = [segment for segment in layout.segments if segment.written]
    records = [record for record in records if all(_parts(record, pieces))]
    given = {s.name for s in layout.segments if s.part and not s.written}
    rows = [
        {name: x for name, x in record_values(record, layout).items() if name in given}
        for record in records
    ]
    found = []
    written = sampler.write(layout.task, rows, seed)
    for index, piece in enumerate(pieces):
        before = pieces[:index]
        shown = [
            row | {p.name: _as_value(made[p.name]) for p in before}
            for row, made in zip(rows, written, strict=True)
        ]
        found.append(
            judged(
                judge,
                records,
                task=layout.task,
                piece=piece.name,
                modality=piece.modality,
                shown=shown,
                written=[made[piece.name] for made in written],
                real=[part for r in records if (part := next(_parts(r, [piece])))],
            )
        )
    return found


def evenly_wanted(
    records: Sequence[Record], layout: TaskLayout, judge: Judge | None, count: int
) -> list[Record]:
    """So many records, repeated if need be, that want everything about equally often.

    What a record wants is what the judge says of its own part in the first written
    piece; without a judge they are the first ones.
    """
    rows: dict[str, list[Record]] = {}
    piece = next(segment for segment in layout.segments if segment.written)
    for record in records:
        part = next(_parts(record, [piece]))
        verdict = judge(record, part, as_written(part)) if judge and part else None
        rows.setdefault(verdict.wanted if verdict else "", []).append(record)
    kinds = [rows[wanted] for wanted in sorted(rows)]
    turns = (divmod(index, len(kinds)) for index in range(count if kinds else 0))
    return [kinds[kind][turn % len(kinds[kind])] for turn, kind in turns]


def judge_accuracy(judge: Judge, records: Sequence[Record]) -> dict[str, float]:
    """Part -> share of the records' own that the judge says are right."""
    right: dict[str, list[bool]] = {}
    for record in records:
        for part in record.parts:
            if verdict := judge(record, part, as_written(part)):
                right.setdefault(part.name, []).append(verdict.right)
    return {name: float(np.mean(each)) for name, each in right.items()}


def as_written(part: Part) -> Written:
    """A part of a record as if a model had written it; the first of several texts."""
    if isinstance(part, Text):
        return part.texts[0]
    return part.pixels if isinstance(part, Image) else part.units


def _parts(record: Record, pieces: Sequence[SegmentSpec]) -> Iterator[Part | None]:
    return (record.part(piece.part, piece.occurrence) for piece in pieces)


def _as_value(written: Written) -> Value:
    return Image(written) if isinstance(written, np.ndarray) else written
