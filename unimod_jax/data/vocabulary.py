"""One id space: special and task tokens, text, image codes, then speech units."""

import dataclasses

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.record_schema import DataError
from unimod_jax.layout import PADDING, SpecialTokens

FIRST_TEXT_ID = 16
"""Native text ids follow the special ones and a few that are kept free."""

_ROUND_TO = 32
"""Embedding rows come in multiples of this, so that they shard and tile evenly."""

type Runs = tuple[tuple[int, int], ...]
"""Ids as [start, end) runs of consecutive ones."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Which id means what: a table, native or of a released model.

    Natively the special ids come first, then text, image codes and speech units, all of
    it a pure function of the data config. Released models have their text first, or
    their image codes (`unimod_jax.data.released`).

    Attributes:
      special: ids of markers, mask and tasks.
      text_start: id of the text tokenizer's piece 0.
      text_pieces: most pieces that the text tokenizer may have.
      words: ids that are text, and may be written as text.
      image_start: id of image code 0; the others follow in order.
      image_codes: how many image codes there are.
      speech_start: id of speech unit 0; the others follow in order.
      speech_units: how many speech units there are.
      rows: embedding rows; 0 for all ids, rounded up to a multiple of 32.
      one_line: whether decoded text has its white space joined to single spaces, as
        native captions do; if not it is as the tokenizer gives it.
    """

    special: SpecialTokens
    text_start: int
    text_pieces: int
    words: Runs
    image_start: int
    image_codes: int
    speech_start: int = 0
    speech_units: int = 0
    rows: int = 0
    one_line: bool = True

    def __post_init__(self) -> None:
        """Checks that the ids fit the embedding rows; DataError with both numbers."""
        if self.rows and self.used > self.rows:
            raise DataError(
                f"the vocabulary uses {self.used} ids but the model has {self.rows} "
                "embedding rows; give the tokenizer files that belong to the model."
            )

    @classmethod
    def native(
        cls, text_pieces: int, image_levels: int, speech_units: int = 0
    ) -> "Vocabulary":
        """This library's own order of ids."""
        image_start = FIRST_TEXT_ID + text_pieces
        return cls(
            SpecialTokens(),
            FIRST_TEXT_ID,
            text_pieces,
            ((FIRST_TEXT_ID, image_start),),
            image_start,
            image_levels,
            image_start + image_levels,
            speech_units,
        )

    @classmethod
    def of(cls, config: DataConfig) -> "Vocabulary":
        """The native vocabulary of a data config."""
        return cls.native(
            config.text_vocabulary_size, config.image_levels, config.speech_units
        )

    @property
    def used(self) -> int:
        """One more than the largest id."""
        return max(
            *(marker + 1 for marker in self.special.ids),
            *(end for _, end in self.words),
            self.image_start + self.image_codes,
            self.speech_start + self.speech_units,
            PADDING + 1,
        )

    @property
    def size(self) -> int:
        """Number of embedding rows."""
        return self.rows or -(-self.used // _ROUND_TO) * _ROUND_TO

    def words_among(self, known_pieces: int) -> Runs:
        """The words that a tokenizer of so many pieces has."""
        known = self.text_start + known_pieces
        return tuple(
            (start, min(end, known)) for start, end in self.words if start < known
        )

    def is_word(self, known_pieces: int) -> np.ndarray:
        """Which ids are text of a tokenizer of so many pieces, boolean [size]."""
        is_word = np.zeros(self.size, bool)
        for start, end in self.words_among(known_pieces):
            is_word[start:end] = True
        return is_word
