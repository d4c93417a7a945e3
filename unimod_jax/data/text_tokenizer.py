"""Captions as ids and back: a small byte-pair encoding trained on the train captions.

Text is lower-cased and split at spaces and punctuation; frequent words become single
tokens. The word boundary is part of a token ("▁seven"), so decoding restores spaces.
Released models bring tokenizers of their own (`unimod_jax.data.released`), which are
used just as they are.
"""

import dataclasses
import functools
import os
import types
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unimod_jax.data.record_schema import DataError
from unimod_jax.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    import tokenizers

UNKNOWN = "<unknown>"
"""Stands for a character that no train caption has."""

REMEMBERED_TEXTS = 2**16
"""Captions whose ids are kept: they come again every epoch, and encoding is slow."""


@dataclasses.dataclass(frozen=True)
class TextTokenizer:
    """Encodes text to ids in the vocabulary's text range, and decodes them.

    Attributes:
      pieces: the trained Hugging Face tokenizer, whose ids start at 0.
      vocabulary: gives the offset of text ids.
    """

    pieces: "tokenizers.Tokenizer"
    vocabulary: Vocabulary
    _encoded: dict[str, tuple[int, ...]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without begin or end; no text has none."""
        ids = self._encoded.get(text)
        if ids is None:
            start = self.vocabulary.text_start
            # What begins and ends a row is the template's to say, not the file's.
            encoded = self.pieces.encode(text, add_special_tokens=False)
            ids = tuple(start + piece for piece in encoded.ids)
            if len(self._encoded) < REMEMBERED_TEXTS:
                self._encoded[text] = ids
        return list(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, trimmed; everything that is not text is dropped."""
        start, is_word = self.vocabulary.text_start, self.is_word
        known = [int(token) for token in ids if 0 <= token < len(is_word)]
        pieces = [token - start for token in known if is_word[token]]
        text = self.pieces.decode(pieces)
        return " ".join(text.split()) if self.vocabulary.one_line else text.strip()

    @functools.cached_property
    def is_word(self) -> np.ndarray:
        """Which ids of the vocabulary are this tokenizer's text, boolean [V]."""
        return self.vocabulary.is_word(self.pieces.get_vocab_size())

    @classmethod
    def train(cls, captions: Iterable[str], vocabulary: Vocabulary) -> "TextTokenizer":
        """Learns the pieces; the same captions give the same tokenizer.

        Raises DataError if the captions use more characters than there are text ids.
        """
        library = tokenizers_library()
        pieces = library.Tokenizer(library.models.BPE(unk_token=UNKNOWN))
        normalizers, splits = library.normalizers, library.pre_tokenizers
        pieces.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Lowercase()]
        )
        pieces.pre_tokenizer = splits.Sequence(
            [splits.Metaspace(), splits.Punctuation()]
        )
        pieces.decoder = library.decoders.Metaspace()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary.text_pieces,
            special_tokens=[UNKNOWN],
            show_progress=False,
        )
        pieces.train_from_iterator(captions, trainer)
        return cls(_that_fits(pieces, vocabulary, "the train captions"), vocabulary)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tokenizer as JSON, by one rename."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        scratch.write_text(self.pieces.to_str(pretty=True))
        scratch.replace(path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], vocabulary: Vocabulary
    ) -> "TextTokenizer":
        """Reads what `save` wrote.

        Raises DataError if the file is missing, damaged, or too large a vocabulary.
        """
        pieces = read_pieces(path, "train the tokenizer again")
        where = f"tokenizer file {os.fspath(path)!r}"
        return cls(_that_fits(pieces, vocabulary, where), vocabulary)


def read_pieces(path: str | os.PathLike[str], remedy: str) -> "tokenizers.Tokenizer":
    """Reads a tokenizer in the JSON format of the `tokenizers` library.

    Args:
      path: the file.
      remedy: what to do about a bad one, for messages.

    Raises:
      DataError: if the file is missing or damaged.
    """
    where = f"tokenizer file {os.fspath(path)!r}"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {where} ({error}); {remedy}.") from error
    try:
        return tokenizers_library().Tokenizer.from_str(text)
    # The library raises bare Exception on JSON that it does not understand.
    except Exception as error:
        raise DataError(f"{where} is damaged ({error}); {remedy}.") from error


def _that_fits(
    pieces: "tokenizers.Tokenizer", vocabulary: Vocabulary, where: str
) -> "tokenizers.Tokenizer":
    size = pieces.get_vocab_size()
    if size > vocabulary.text_pieces:
        raise DataError(
            f"{where} use {size} text ids but the vocabulary has "
            f"{vocabulary.text_pieces} for them; enlarge data.text_vocabulary_size, or "
            "give the tokenizer that belongs to the model."
        )
    return pieces


def tokenizers_library() -> types.ModuleType:
    """The `tokenizers` library, imported when it is first used."""
    # Its threads only get in the way of forks, and captions are short.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    return tokenizers
