"""From a record to a row: each segment of a layout gets its tokens.

Fixed segments bring their ids along. A segment that names a part is filled by it: texts
tokenized in the wording of their segment, images as codes (with an end-of-line token
after each line, where there are lines) or patches, speech as units. A written text or
utterance has its end token behind it.

What is not known yet (the caption or image to generate) is held open: its slots carry
PADDING ids, and have positions, so that the tokens around it stand where they will.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.image_codes import codes_of, patches_of
from unimod_jax.data.record_schema import DataError, Image, Record, Text
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.data.vocabulary import Vocabulary
from unimod_jax.layout import (
    IMAGE,
    PADDING,
    SPEECH,
    TEXT,
    Document,
    SegmentSpec,
    TaskLayout,
)


class Held(enum.Enum):
    """What a segment holds that no record fills."""

    OPEN = "slots for what is to be generated"
    NOTHING = "no token"


type Value = str | Image | Sequence[int] | Held
"""What fills a segment: a text, an image, units of speech, or nothing known."""


@dataclasses.dataclass(frozen=True)
class Choices:
    """What chance decides about a row.

    Attributes:
      texts: of each text of the record, in order, which alternative.
      drop: whether droppable segments are left empty.
    """

    texts: tuple[int, ...] = ()
    drop: bool = False

    @classmethod
    def drawn(
        cls, record: Record, drop_share: float, rng: np.random.Generator
    ) -> "Choices":
        """Choices by chance; all are drawn, so that no option shifts another's."""
        texts = [part for part in record.parts if isinstance(part, Text)]
        chosen = tuple(int(rng.integers(len(part.texts))) for part in texts)
        return cls(chosen, bool(rng.random() < drop_share))


FIRST = Choices()
"""The first alternative of every text, and nothing dropped."""


def fill(
    record: Record,
    layout: TaskLayout,
    config: DataConfig,
    tokenizer: TextTokenizer,
    choices: Choices = FIRST,
) -> Document:
    """The row of a record.

    Args:
      record: as read by `open_split`.
      layout: of the task; decides what is used of the record.
      config: how images become codes or patches.
      tokenizer: how texts become ids; it carries the vocabulary.
      choices: what chance has decided.

    Raises:
      DataError: if the record lacks a part, or something does not fit its slots.
    """
    values = record_values(record, layout, choices)
    return document(values, layout, config, tokenizer, where=record.key)


def record_values(
    record: Record, layout: TaskLayout, choices: Choices = FIRST
) -> dict[str, Value]:
    """Segment -> what a record fills it with, of the segments that name a part.

    Raises:
      DataError: if the record lacks a part that is neither optional nor has a default.
    """
    texts = [part for part in record.parts if isinstance(part, Text)]
    chosen = dict(zip(map(id, texts), choices.texts, strict=False))
    values: dict[str, Value] = {}
    for segment in layout.segments:
        if not segment.part:
            continue
        part = record.part(segment.part, segment.occurrence)
        if choices.drop and segment.droppable:
            values[segment.name] = Held.NOTHING
        elif part is None:
            values[segment.name] = _without_part(segment, layout, record)
        elif part.modality != segment.modality:
            raise DataError(
                f"the part {part.name!r} of {record.key} is {part.modality}, but the "
                f"piece {segment.name!r} of task {layout.task!r} is "
                f"{segment.modality}; name another part."
            )
        elif isinstance(part, Text):
            values[segment.name] = part.texts[chosen.get(id(part), 0)]
        else:
            values[segment.name] = part if isinstance(part, Image) else part.units
    return values


def _without_part(segment: SegmentSpec, layout: TaskLayout, record: Record) -> Value:
    if segment.default:
        return segment.default
    if segment.optional:
        return Held.NOTHING
    names = list(dict.fromkeys(part.name for part in record.parts))
    which = f" number {segment.occurrence + 1}" if segment.occurrence else ""
    raise DataError(
        f"{record.key} has no part {segment.part!r}{which}, which the piece "
        f"{segment.name!r} of task {layout.task!r} shows; it has {names}: name one of "
        "these, make the piece optional, or give it a default."
    )


def document(
    values: Mapping[str, Value],
    layout: TaskLayout,
    config: DataConfig,
    tokenizer: TextTokenizer | None,
    *,
    where: str = "this row",
) -> Document:
    """The row of what is known: a bare prompt, a bare image, or all of it.

    Args:
      values: segment -> what fills it. Of those that are not in it, written ones are
        held open, others have their default, or stay empty.
      layout: of the task.
      config: how images become codes or patches.
      tokenizer: how texts become ids; it carries the vocabulary. None where no text is
        known.
      where: names the row in messages.

    Raises:
      DataError: if something does not fit its slots.
    """
    tokens: dict[str, Sequence[int]] = {}
    patches = []
    for segment in layout.segments:
        value = values.get(segment.name, _unknown(segment))
        if segment.continuous:
            patches.append(_patches(value, config, where))
            num_tokens = len(patches[-1])
        else:
            ids = _ids(segment, value, config, tokenizer, where)
            tokens[segment.name] = ids
            num_tokens = len(ids)
        _check_fits(segment, num_tokens, layout, where)
    return Document(tokens, np.concatenate(patches) if patches else None)


def _unknown(segment: SegmentSpec) -> Value:
    """What stands for a segment that nothing is known of."""
    if segment.written or segment.modality == IMAGE:
        return Held.OPEN
    return segment.default or Held.NOTHING


def image_ids(
    code_N: np.ndarray, vocabulary: Vocabulary, line_length: int
) -> list[int]:
    """Ids of an image's codes, with the end of a line after every line.

    Args:
      code_N: integers from 0, in raster order.
      vocabulary: the ids.
      line_length: codes per line, dividing the codes of an image; 0 for no line ends.
    """
    code_N = np.asarray(code_N) + vocabulary.image_start
    if line_length:
        lines = code_N.reshape(-1, line_length)
        end = vocabulary.special.end_of_line
        ended = np.pad(lines, ((0, 0), (0, 1)), constant_values=end)
        code_N = ended.reshape(-1)
    return code_N.tolist()


def _ids(
    segment: SegmentSpec,
    value: Value,
    config: DataConfig,
    tokenizer: TextTokenizer | None,
    where: str,
) -> Sequence[int]:
    """A discrete segment's ids."""
    if segment.ids:
        return segment.ids
    if value is Held.OPEN:
        return [PADDING] * segment.num_slots
    if value is Held.NOTHING:
        return []
    assert tokenizer is not None, "a text is known, so somebody has tokenized it"
    vocabulary = tokenizer.vocabulary
    if isinstance(value, Image):
        codes = codes_of(value, config, where)
        return image_ids(codes, vocabulary, segment.line_length)
    if isinstance(value, str):
        ids = tokenizer.encode(segment.wording.replace("{}", value)) if value else []
        return [*ids, vocabulary.special.end] if segment.written else ids
    assert not isinstance(value, Held)
    ids = [vocabulary.speech_start + unit for unit in value]
    return [*ids, vocabulary.special.end_speech] if segment.written else ids


def _patches(value: Value, config: DataConfig, where: str) -> np.ndarray:
    """An image's patches, zero if it is not known."""
    if isinstance(value, Image):
        return patches_of(value, config, where)
    return np.zeros((config.num_patches, config.patch_width), np.float32)


_OPTION = {TEXT: "data.caption_tokens", SPEECH: "data.speech_tokens"}


def _check_fits(
    segment: SegmentSpec, num_tokens: int, layout: TaskLayout, where: str
) -> None:
    slots = f"the {segment.name!r} segment of task {layout.task!r}"
    if segment.modality == IMAGE and num_tokens != segment.num_slots:
        raise DataError(
            f"the image of {where} is {num_tokens} tokens but {slots} has "
            f"{segment.num_slots} slots; make the layout from the same data config."
        )
    if num_tokens > segment.num_slots:
        raise DataError(
            f"the {segment.modality} of {where} is {num_tokens} tokens but {slots} has "
            f"{segment.num_slots} slots; shorten it, or enlarge "
            f"{_OPTION.get(segment.modality, 'it')} or the piece's num_slots."
        )
