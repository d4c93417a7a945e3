"""From a record to an interleaved document: its parts in random order, with markers.

    caption    caption ids
    image      codes or patches, between the image markers
    speech     units, between the speech markers; only if the record has speech

The document stands between the begin and end token. Markers are text. Where the layout
says so, images are bidirectional, and one that comes before its caption is noised less.
"""

from collections.abc import Sequence

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.documents import image_ids
from unimod_jax.data.image_codes import codes_of, needed_image, patches_of
from unimod_jax.data.record_schema import DataError, Record
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Slots,
    Span,
)


def worst_case_slots(config: DataConfig, image_slots: int) -> Slots:
    """Slots of a row that holds `config.documents_per_row` of the longest documents.

    Args:
      config: how long captions and speech can be, and how many documents a row has.
      image_slots: tokens of an image: codes with their line ends, or patches.
    """
    one = {TEXT: config.caption_tokens + 4, IMAGE: image_slots}
    if config.speech_feature:
        one[TEXT] += 2
        one[SPEECH] = config.speech_tokens
    return tuple((name, n * config.documents_per_row) for name, n in one.items())


def interleave(
    record: Record,
    layout: InterleavedLayout,
    config: DataConfig,
    tokenizer: TextTokenizer,
    rng: np.random.Generator,
) -> InterleavedDocument:
    """The document of a record, with one of its captions and an order by chance.

    Args:
      record: as read by `open_split`.
      layout: of the task; decides how images enter and what is bidirectional.
      config: how images become codes or patches.
      tokenizer: how captions become ids; it carries the vocabulary.
      rng: chooses the caption and the order of the parts.

    Raises:
      DataError: if the caption is longer than `config.caption_tokens`.
    """
    caption = record.captions[int(rng.integers(len(record.captions)))]
    names = [TEXT, IMAGE]
    if record.speech is not None and layout.num_slots(SPEECH):
        names.append(SPEECH)
    order = [names[place] for place in rng.permutation(len(names))]
    special = layout.special
    spans = [Span(TEXT, [special.begin])]
    for name in order:
        if name == TEXT:
            spans.append(_caption(caption, record, config, tokenizer))
        elif name == IMAGE:
            precedes_text = order.index(IMAGE) < order.index(TEXT)
            image = _image(record, layout, config, tokenizer, precedes_text)
            markers = special.begin_image, special.end_image
            spans += _between(markers, image)
        else:
            start = tokenizer.vocabulary.speech_start
            units = [start + unit for unit in record.speech or ()]
            markers = special.begin_speech, special.end_speech
            spans += _between(
                markers, Span(SPEECH, units, SPEECH in layout.bidirectional)
            )
    spans.append(Span(TEXT, [special.end]))
    return InterleavedDocument(tuple(spans), record.key)


def _between(markers: tuple[int, int], span: Span) -> Sequence[Span]:
    begin, end = markers
    return Span(TEXT, [begin]), span, Span(TEXT, [end])


def _caption(
    caption: str, record: Record, config: DataConfig, tokenizer: TextTokenizer
) -> Span:
    ids = tokenizer.encode(caption)
    if len(ids) > config.caption_tokens:
        raise DataError(
            f"the text of {record.key} is {len(ids)} tokens but data.caption_tokens is "
            f"{config.caption_tokens}; shorten it or enlarge data.caption_tokens."
        )
    return Span(TEXT, ids)


def _image(
    record: Record,
    layout: InterleavedLayout,
    config: DataConfig,
    tokenizer: TextTokenizer,
    precedes_text: bool,
) -> Span:
    bidirectional = IMAGE in layout.bidirectional
    continuous = layout.patches_per_image > 0
    image = needed_image(record, config, continuous=continuous)
    if not continuous:
        vocabulary = tokenizer.vocabulary
        codes = codes_of(image, record.codes, config, record.key)
        ids = image_ids(codes, vocabulary, layout.line_length)
        return Span(IMAGE, ids, bidirectional)
    return Span(
        IMAGE,
        (),
        bidirectional,
        patches=patches_of(image, record.codes, config, record.key),
        largest_time=layout.captioned_time if precedes_text else 1.0,
    )
