"""From a record to a document: each segment of a layout gets its tokens, by name.

Fixed segments bring their ids along. What records fill, by the names of
`layout.templates`:

    prompt     caption ids, or nothing     caption    caption ids and the end token
    question   ids of the question         text       caption ids and the end token
    image      image codes, or patches

Texts are tokenized in the wording of their segment. An image segment with lines has the
end-of-line token after each line of codes.

What is not known yet (the caption or image to generate) is held open: its slots carry
PADDING ids, and have positions, so that the tokens around it stand where they will.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.image_codes import codes_of, needed_image, patches_of
from unimod_jax.data.record_schema import DataError, Record
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.data.vocabulary import Vocabulary
from unimod_jax.layout import PADDING, Document, SegmentSpec, TaskLayout

_CAPTIONS = ("prompt", "caption", "text")


def fill(
    record: Record,
    layout: TaskLayout,
    config: DataConfig,
    tokenizer: TextTokenizer,
    *,
    caption: int = 0,
    drop_prompt: bool = False,
) -> Document:
    """The document of a record, with one of its captions.

    Args:
      record: as read by `open_split`.
      layout: of the task; decides what is used of the record.
      config: how images become codes or patches, and what is asked about them.
      tokenizer: how captions become ids; it carries the vocabulary.
      caption: which of the record's captions.
      drop_prompt: leaves the prompt empty, as in unconditional generation.

    Raises:
      DataError: if the caption does not fit its slots, or a segment is unknown.
    """
    images = (
        needed_image(record, config, continuous=segment.continuous)
        for segment in layout.segments
        if segment.name == "image"
    )
    return document(
        layout,
        config,
        tokenizer.vocabulary,
        caption_ids=caption_ids(record.captions[caption], layout, tokenizer),
        question_ids=question_ids(config.question, layout, tokenizer),
        image=next(images, None),
        codes=record.codes,
        drop_prompt=drop_prompt,
        where=record.key,
    )


def caption_ids(text: str, layout: TaskLayout, tokenizer: TextTokenizer) -> list[int]:
    """Ids of a prompt or caption in its layout's wording; none for an empty text."""
    return _worded(text, _CAPTIONS, layout, tokenizer) if text else []


def question_ids(text: str, layout: TaskLayout, tokenizer: TextTokenizer) -> list[int]:
    """Ids of a question in its layout's wording; none where nothing is asked.

    Raises:
      DataError: if the layout asks a question and there is none.
    """
    asks = any(segment.name == "question" for segment in layout.segments)
    if asks and not text:
        raise DataError(
            f"rows of task {layout.task!r} ask a question about their image, but it is "
            "empty; set data.question, or give one question per image."
        )
    return _worded(text, ("question",), layout, tokenizer) if asks else []


def _worded(
    text: str, names: tuple[str, ...], layout: TaskLayout, tokenizer: TextTokenizer
) -> list[int]:
    wording = next((s.wording for s in layout.segments if s.name in names), "{}")
    return tokenizer.encode(wording.replace("{}", text))


def document(
    layout: TaskLayout,
    config: DataConfig,
    vocabulary: Vocabulary,
    *,
    caption_ids: Sequence[int] | None,
    image: np.ndarray | None,
    codes: np.ndarray | None = None,
    question_ids: Sequence[int] = (),
    drop_prompt: bool = False,
    where: str = "this row",
) -> Document:
    """The document of a bare prompt, a bare image, or both.

    Args:
      layout: of the task.
      config: how the image becomes codes or patches.
      vocabulary: the ids.
      caption_ids: text ids of the prompt or caption, without the end token. None holds
        the slots of the caption or text open; a prompt that is None is empty.
      image: uint8 [image_size, image_size, image_channels], or None to hold its slots
        open (patches are zero).
      codes: int32 [N], the image's codes, or float32 [Y, X, Z], its latents, if a
        learned tokenizer has made them; None for grey levels or patches of the image.
      question_ids: text ids of a question about the image.
      drop_prompt: leaves the prompt empty although there is a caption.
      where: names the row in messages.

    Raises:
      DataError: if something does not fit its slots, or a segment is unknown.
    """
    given = _Given(
        layout,
        config,
        vocabulary,
        caption_ids,
        question_ids,
        image,
        codes,
        drop_prompt,
        where,
    )
    tokens: dict[str, Sequence[int]] = {}
    patch_NP = None
    for segment in layout.segments:
        if segment.name == "image" and segment.continuous:
            patch_NP = given.patches()
            num_tokens = len(patch_NP)
        else:
            tokens[segment.name] = given.tokens(segment)
            num_tokens = len(tokens[segment.name])
        _check_fits(segment, num_tokens, given)
    return Document(tokens, patch_NP)


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


@dataclasses.dataclass(frozen=True)
class _Given:
    """What is known of a row."""

    layout: TaskLayout
    config: DataConfig
    vocabulary: Vocabulary
    caption_ids: Sequence[int] | None
    question_ids: Sequence[int]
    image: np.ndarray | None
    codes: np.ndarray | None
    drop_prompt: bool
    where: str

    def tokens(self, segment: SegmentSpec) -> Sequence[int]:
        """A discrete segment's ids."""
        if segment.ids:
            return segment.ids
        match segment.name:
            case "prompt":
                return [] if self.drop_prompt else list(self.caption_ids or ())
            case "question":
                return list(self.question_ids)
            case "caption" | "text":
                if self.caption_ids is None:
                    return [PADDING] * segment.num_slots
                return [*self.caption_ids, self.vocabulary.special.end]
            case "image":
                if self.image is None and self.codes is None:
                    return [PADDING] * segment.num_slots
                return image_ids(
                    codes_of(self.image, self.codes, self.config, self.where),
                    self.vocabulary,
                    segment.line_length,
                )
        raise DataError(
            f"segment {segment.name!r} of task {self.layout.task!r} has no content; "
            "give it ids, or name it prompt, question, image, caption or text."
        )

    def patches(self) -> np.ndarray:
        """The image's patches, zero if it is not known."""
        config = self.config
        if self.image is None and self.codes is None:
            return np.zeros((config.num_patches, config.patch_width), np.float32)
        return patches_of(self.image, self.codes, config, self.where)


def _check_fits(segment: SegmentSpec, num_tokens: int, given: _Given) -> None:
    where, task = given.where, given.layout.task
    slots = f"the {segment.name!r} segment of task {task!r}"
    if segment.name == "image" and num_tokens != segment.num_slots:
        raise DataError(
            f"the image of {where} is {num_tokens} tokens but {slots} has "
            f"{segment.num_slots} slots; make the layout from the same data config."
        )
    if num_tokens > segment.num_slots:
        name = "question" if segment.name == "question" else "caption"
        raise DataError(
            f"the text of {where} is {num_tokens} tokens but {slots} has "
            f"{segment.num_slots} slots; shorten it or enlarge data.{name}_tokens."
        )
