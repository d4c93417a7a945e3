"""From a record to a document of packed rows: its parts in order, with markers.

    text      ids
    image     codes or patches, between the image markers
    speech    units, between the speech markers

The document stands between the begin and end token. Markers are text. Where the layout
says so, parts come in an order by chance, images are bidirectional, and an image that
no text precedes is noised less, as one before its caption.
"""

import dataclasses

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.documents import image_ids
from unimod_jax.data.image_codes import codes_of, patches_of
from unimod_jax.data.record_schema import DataError, Image, Part, Record, Text
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.data.vocabulary import Vocabulary
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
)


@dataclasses.dataclass(frozen=True)
class DocumentChoices:
    """What chance decides about a document.

    Attributes:
      texts: of each text, in the order of the record, which alternative.
      order: of its parts.
    """

    texts: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def drawn(
        cls, parts: "tuple[PartLengths, ...]", shuffled: bool, rng: np.random.Generator
    ) -> "DocumentChoices":
        """Choices by chance, from what is known of the parts' lengths."""
        choices = (len(part.lengths) for part in parts if part.modality == TEXT)
        texts = tuple(int(rng.integers(count)) for count in choices)
        order = rng.permutation(len(parts)) if shuffled else range(len(parts))
        return cls(texts, tuple(map(int, order)))


@dataclasses.dataclass(frozen=True)
class PartLengths:
    """How many tokens a part of a record has: one number for each alternative."""

    modality: str
    lengths: tuple[int, ...]


def part_lengths(
    record: Record,
    layout: InterleavedLayout,
    config: DataConfig,
    tokenizer: TextTokenizer,
) -> tuple[PartLengths, ...]:
    """The tokens of each part, its markers not counted; no image is decoded.

    Args:
      record: as read by `open_split`.
      layout: of the task; decides how images enter.
      config: how many codes an image has.
      tokenizer: how texts become ids.
    """
    lines = layout.line_length
    num_codes = config.num_image_codes
    image = layout.patches_per_image or num_codes + (num_codes // lines if lines else 0)

    def lengths(part: Part) -> PartLengths:
        if isinstance(part, Text):
            counts = tuple(len(tokenizer.encode(text)) for text in part.texts)
            return PartLengths(TEXT, counts)
        if isinstance(part, Image):
            return PartLengths(IMAGE, (image,))
        return PartLengths(SPEECH, (len(part.units),))

    return tuple(map(lengths, record.parts))


def interleave(
    record: Record,
    layout: InterleavedLayout,
    config: DataConfig,
    tokenizer: TextTokenizer,
    choices: DocumentChoices,
) -> InterleavedDocument:
    """The document of a record.

    Args:
      record: as read by `open_split`.
      layout: of the task; decides how images enter and what is bidirectional.
      config: how images become codes or patches.
      tokenizer: how texts become ids; it carries the vocabulary.
      choices: which alternatives, and the order of the parts.

    Raises:
      DataError: for a part that rows of the layout have no slots for.
    """
    alternatives = iter(choices.texts)
    texts = {
        place: part.texts[next(alternatives)]
        for place, part in enumerate(record.parts)
        if isinstance(part, Text)
    }
    special, vocabulary = layout.special, tokenizer.vocabulary
    spans = [Span(TEXT, [special.begin])]
    text_before = False
    for place in choices.order:
        part = record.parts[place]
        if not layout.num_slots(part.modality):
            raise DataError(
                f"{record.key} has a part of {part.modality}, but rows of task "
                f"{layout.task!r} have no slots for it; give them some, or leave it "
                "out of data.parts."
            )
        both_ways = part.modality in layout.bidirectional
        if isinstance(part, Text):
            spans.append(Span(TEXT, tokenizer.encode(texts[place])))
            text_before = True
        elif isinstance(part, Image):
            largest_time = 1.0 if text_before else layout.captioned_time
            image = _image(part, layout, config, vocabulary, record.key)
            image = dataclasses.replace(
                image, bidirectional=both_ways, largest_time=largest_time
            )
            spans += _between(special.begin_image, image, special.end_image)
        else:
            units = [vocabulary.speech_start + unit for unit in part.units]
            speech = Span(SPEECH, units, both_ways)
            spans += _between(special.begin_speech, speech, special.end_speech)
    spans.append(Span(TEXT, [special.end]))
    return InterleavedDocument(tuple(spans), record.key)


def _between(begin: int, span: Span, end: int) -> tuple[Span, Span, Span]:
    return Span(TEXT, [begin]), span, Span(TEXT, [end])


def _image(
    part: Image,
    layout: InterleavedLayout,
    config: DataConfig,
    vocabulary: Vocabulary,
    where: str,
) -> Span:
    if layout.patches_per_image:
        return Span(IMAGE, (), patches=patches_of(part, config, where))
    codes = codes_of(part, config, where)
    return Span(IMAGE, image_ids(codes, vocabulary, layout.line_length))
