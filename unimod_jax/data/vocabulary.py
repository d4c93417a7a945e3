"""One id space: special and task tokens, text, image codes, then speech units."""

import dataclasses
from typing import ClassVar

from unimod_jax.data.config import DataConfig
from unimod_jax.data.record_schema import DataError
from unimod_jax.layout import special_tokens

_ROUND_TO = 32
"""Embedding rows come in multiples of this, so that they shard and tile evenly."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Which id means what; a pure function of the data config.

    The special ids of `layout.special_tokens` come first, then one token per task, then
    text ids [text_start, image_start) and image codes [image_start, image_start +
    image_levels), and speech units after those.

    Attributes:
      text_vocabulary_size: ids reserved for text.
      image_levels: ids of image codes.
      speech_units: ids of speech units.
    """

    text_vocabulary_size: int
    image_levels: int
    speech_units: int = 0

    PADDING: ClassVar[int] = special_tokens.PADDING
    BEGIN: ClassVar[int] = special_tokens.BEGIN
    END: ClassVar[int] = special_tokens.END
    BEGIN_IMAGE: ClassVar[int] = special_tokens.BEGIN_IMAGE
    END_IMAGE: ClassVar[int] = special_tokens.END_IMAGE
    MASK: ClassVar[int] = special_tokens.MASK
    BEGIN_SPEECH: ClassVar[int] = special_tokens.BEGIN_SPEECH
    END_SPEECH: ClassVar[int] = special_tokens.END_SPEECH
    END_OF_LINE: ClassVar[int] = special_tokens.END_OF_LINE
    TEXT_TO_IMAGE: ClassVar[int] = special_tokens.NUM_SPECIAL
    """Task token, as are the next three."""
    IMAGE_TO_TEXT: ClassVar[int] = special_tokens.NUM_SPECIAL + 1
    TEXT_ONLY: ClassVar[int] = special_tokens.NUM_SPECIAL + 2
    INTERLEAVED: ClassVar[int] = special_tokens.NUM_SPECIAL + 3
    text_start: ClassVar[int] = special_tokens.NUM_SPECIAL + 4

    @classmethod
    def of(cls, config: DataConfig) -> "Vocabulary":
        """The vocabulary of a data config."""
        return cls(
            config.text_vocabulary_size, config.image_levels, config.speech_units
        )

    @property
    def image_start(self) -> int:
        """Id of image code 0."""
        return self.text_start + self.text_vocabulary_size

    @property
    def speech_start(self) -> int:
        """Id of speech unit 0."""
        return self.image_start + self.image_levels

    @property
    def used(self) -> int:
        """Number of ids."""
        return self.speech_start + self.speech_units

    @property
    def size(self) -> int:
        """Number of embedding rows: all ids, rounded up to a multiple of 32."""
        return -(-self.used // _ROUND_TO) * _ROUND_TO

    def task_token(self, task: str) -> int:
        """Id of a task's token; DataError for a task without one."""
        tokens = {
            "text_to_image": self.TEXT_TO_IMAGE,
            "image_to_text": self.IMAGE_TO_TEXT,
            "text_only": self.TEXT_ONLY,
            "interleaved": self.INTERLEAVED,
        }
        if task not in tokens:
            raise DataError(f"task {task!r} has no token; use one of {sorted(tokens)}.")
        return tokens[task]
