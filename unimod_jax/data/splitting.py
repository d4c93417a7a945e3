"""Cutting a document that is longer than a row, at text tokens only.

Images and speech stay whole, together with the marker tokens around them.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from unimod_jax.layout import TEXT, InterleavedDocument, Slots, Span, SpecialTokens


def split_document(
    document: InterleavedDocument, buckets: Sequence[Slots], special: SpecialTokens
) -> list[InterleavedDocument] | None:
    """Parts of a document, each as long as fits an empty row, in order.

    Args:
      document: to be cut.
      buckets: slots per modality that a row may have; a part fits one of them.
      special: which ids are the markers.

    Returns:
      The parts, or None if something that stays whole fits no row.
    """
    parts: list[list[Span]] = [[]]
    held: collections.Counter[str] = collections.Counter()
    todo = collections.deque(_units(document.spans, special))
    while todo:
        unit = todo.popleft()
        count = collections.Counter(InterleavedDocument(unit).num_tokens())
        fits = _free_text(held + count, buckets) is not None
        room = None if fits else _free_text(held, buckets)
        if not fits and room and len(unit) == 1 and _may_be_cut(unit[0]):
            first, rest = _cut(unit[0], room)
            unit, fits = (first,), True
            count = collections.Counter({TEXT: room})
            todo.appendleft((rest,))
        if fits:
            parts[-1] += unit
            held.update(count)
        elif not held:
            return None
        else:
            todo.appendleft(unit)
            parts.append([])
            held.clear()
    return [
        InterleavedDocument(tuple(spans), f"{document.name}, part {number}")
        for number, spans in enumerate(parts, start=1)
    ]


def _free_text(count: Mapping[str, int], buckets: Sequence[Slots]) -> int | None:
    """Most text that a row with some tokens can still take; None if they do not fit."""
    rooms = [
        {name: number - count.get(name, 0) for name, number in slots}
        for slots in buckets
        if set(count) <= {name for name, _ in slots}
    ]
    return max(
        (room.get(TEXT, 0) for room in rooms if min(room.values()) >= 0), default=None
    )


def _units(spans: Sequence[Span], special: SpecialTokens) -> list[tuple[Span, ...]]:
    """What may stand in different rows: bits of text, and other spans with markers."""
    opening = (special.begin_image, special.begin_speech)
    closing = (special.end_image, special.end_speech)
    units: list[tuple[Span, ...]] = []
    for span in spans:
        if not _may_be_cut(span):
            units.append((*_taken_from_the_end(units, opening), span))
            continue
        after_whole = units and not _may_be_cut(units[-1][-1])
        if after_whole and len(span.tokens) and span.tokens[0] in closing:
            marker, span = _cut(span, 1)
            units[-1] = (*units[-1], marker)
        units.append((span,))
    return [unit for unit in units if any(span.num_tokens for span in unit)]


def _taken_from_the_end(
    units: list[tuple[Span, ...]], opening: tuple[int, ...]
) -> tuple[Span, ...]:
    """Takes an opening marker from the end of the text before; nothing without one."""
    if not units:
        return ()
    *others, text = units[-1]
    if others or not _may_be_cut(text):
        return ()
    if not len(text.tokens) or text.tokens[-1] not in opening:
        return ()
    before, marker = _cut(text, len(text.tokens) - 1)
    units[-1] = (before,)
    return (marker,)


def _may_be_cut(span: Span) -> bool:
    return span.modality == TEXT and not span.bidirectional


def _cut(span: Span, place: int) -> tuple[Span, Span]:
    return (
        dataclasses.replace(span, tokens=span.tokens[:place]),
        dataclasses.replace(span, tokens=span.tokens[place:]),
    )
