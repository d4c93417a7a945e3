"""From a record to a document: each segment of a layout gets its tokens, by name.

The names are the contract between data and models:

    begin         BEGIN                      image      image codes, or patches
    task          the task's token           caption    caption ids and END
    prompt        caption ids, or nothing    text       caption ids and END
    begin_image   BEGIN_IMAGE                end        END
    end_image     END_IMAGE

An image segment with lines has END_OF_LINE after each line of codes.

What is not known yet (the caption or image to generate) is held open: its slots carry
PADDING ids, and have positions, so that the tokens around it stand where they will.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.image_codec import pixels_to_codes, pixels_to_patches
from unimod_jax.data.record_schema import DataError, Record
from unimod_jax.data.text_tokenizer import TextTokenizer
from unimod_jax.data.vocabulary import Vocabulary
from unimod_jax.layout import Document, SegmentSpec, TaskLayout


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
      config: how images become codes or patches.
      tokenizer: how captions become ids; it carries the vocabulary.
      caption: which of the record's captions.
      drop_prompt: leaves the prompt empty, as in unconditional generation.

    Raises:
      DataError: if the caption does not fit its slots, or a segment is unknown.
    """
    return document(
        layout,
        config,
        tokenizer.vocabulary,
        caption_ids=tokenizer.encode(record.captions[caption]),
        image=record.image,
        drop_prompt=drop_prompt,
        where=record.key,
    )


def document(
    layout: TaskLayout,
    config: DataConfig,
    vocabulary: Vocabulary,
    *,
    caption_ids: Sequence[int] | None,
    image: np.ndarray | None,
    drop_prompt: bool = False,
    where: str = "this row",
) -> Document:
    """The document of a bare prompt, a bare image, or both.

    Args:
      layout: of the task.
      config: how the image becomes codes or patches.
      vocabulary: the ids.
      caption_ids: text ids of the prompt or caption, without END. None holds the slots
        of the caption or text open; a prompt that is None is empty.
      image: uint8 [image_size, image_size, image_channels], or None to hold its slots
        open (patches are zero).
      drop_prompt: leaves the prompt empty although there is a caption.
      where: names the row in messages.

    Raises:
      DataError: if something does not fit its slots, or a segment is unknown.
    """
    given = _Given(layout.task, config, vocabulary, caption_ids, image, drop_prompt)
    tokens: dict[str, Sequence[int]] = {}
    patch_NP = None
    for segment in layout.segments:
        if segment.name == "image" and segment.continuous:
            patch_NP = given.patches()
            num_tokens = len(patch_NP)
        else:
            tokens[segment.name] = given.tokens(segment)
            num_tokens = len(tokens[segment.name])
        _check_fits(segment, num_tokens, given, where)
    return Document(tokens, patch_NP)


def image_ids(
    image: np.ndarray, config: DataConfig, vocabulary: Vocabulary, line_length: int
) -> list[int]:
    """Ids of an image's codes, with END_OF_LINE after every line.

    Args:
      image: uint8 [image_size, image_size, image_channels].
      config: how the image becomes codes.
      vocabulary: the ids.
      line_length: codes per line, dividing the codes of an image; 0 for no line ends.
    """
    code_N = pixels_to_codes(image, config) + vocabulary.image_start
    if line_length:
        lines = code_N.reshape(-1, line_length)
        ended = np.pad(lines, ((0, 0), (0, 1)), constant_values=vocabulary.END_OF_LINE)
        code_N = ended.reshape(-1)
    return code_N.tolist()


@dataclasses.dataclass(frozen=True)
class _Given:
    """What is known of a row."""

    task: str
    config: DataConfig
    vocabulary: Vocabulary
    caption_ids: Sequence[int] | None
    image: np.ndarray | None
    drop_prompt: bool

    def tokens(self, segment: SegmentSpec) -> Sequence[int]:
        """A discrete segment's ids."""
        vocabulary = self.vocabulary
        match segment.name:
            case "begin":
                return [vocabulary.BEGIN]
            case "task":
                return [vocabulary.task_token(self.task)]
            case "begin_image":
                return [vocabulary.BEGIN_IMAGE]
            case "end_image":
                return [vocabulary.END_IMAGE]
            case "end":
                return [vocabulary.END]
            case "prompt":
                return [] if self.drop_prompt else list(self.caption_ids or ())
            case "caption" | "text":
                if self.caption_ids is None:
                    return [vocabulary.PADDING] * segment.num_slots
                return [*self.caption_ids, vocabulary.END]
            case "image":
                if self.image is None:
                    return [vocabulary.PADDING] * segment.num_slots
                return image_ids(
                    self.image, self.config, vocabulary, segment.line_length
                )
        raise DataError(
            f"segment {segment.name!r} of task {self.task!r} has no content; name it "
            "begin, task, prompt, begin_image, image, end_image, caption, text or end."
        )

    def patches(self) -> np.ndarray:
        """The image's patches, zero if it is not known."""
        config = self.config
        if self.image is None:
            return np.zeros((config.num_patches, config.patch_width), np.float32)
        return pixels_to_patches(self.image, config)


def _check_fits(
    segment: SegmentSpec, num_tokens: int, given: _Given, where: str
) -> None:
    slots = f"the {segment.name!r} segment of task {given.task!r}"
    if segment.name == "image" and num_tokens != segment.num_slots:
        raise DataError(
            f"the image of {where} is {num_tokens} tokens but {slots} has "
            f"{segment.num_slots} slots; make the layout from the same data config."
        )
    if num_tokens > segment.num_slots:
        raise DataError(
            f"the text of {where} is {num_tokens} tokens but {slots} has "
            f"{segment.num_slots} slots; shorten it or enlarge data.caption_tokens."
        )
