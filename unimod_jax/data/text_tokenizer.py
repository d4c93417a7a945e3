"""Captions as ids and back: a small byte-pair encoding trained on the train captions.

Text is lower-cased and split at spaces and punctuation; frequent words become single
tokens. The word boundary is part of a token ("▁seven"), so decoding restores spaces.
"""

import dataclasses
import os
import types
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

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
            ids = tuple(start + piece for piece in self.pieces.encode(text).ids)
            if len(self._encoded) < REMEMBERED_TEXTS:
                self._encoded[text] = ids
        return list(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; everything outside the text range is dropped."""
        start = self.vocabulary.text_start
        pieces = [int(token) - start for token in ids]
        known = self.pieces.get_vocab_size()
        text = self.pieces.decode([piece for piece in pieces if 0 <= piece < known])
        return " ".join(text.split())

    @classmethod
    def train(cls, captions: Iterable[str], vocabulary: Vocabulary) -> "TextTokenizer":
        """Learns the pieces; the same captions give the same tokenizer.

        Raises DataError if the captions use more characters than there are text ids.
        """
        library = _library()
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
            vocab_size=vocabulary.text_vocabulary_size,
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
        where = f"tokenizer file {os.fspath(path)!r}"
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read {where} ({error}); train the tokenizer again."
            ) from error
        library = _library()
        try:
            pieces = library.Tokenizer.from_str(text)
        # The library raises bare Exception on JSON that it does not understand.
        except Exception as error:
            raise DataError(
                f"{where} is damaged ({error}); train the tokenizer again."
            ) from error
        return cls(_that_fits(pieces, vocabulary, where), vocabulary)


def _that_fits(
    pieces: "tokenizers.Tokenizer", vocabulary: Vocabulary, where: str
) -> "tokenizers.Tokenizer":
    size = pieces.get_vocab_size()
    if size > vocabulary.text_vocabulary_size:
        raise DataError(
            f"{where} use {size} text ids but data.text_vocabulary_size is "
            f"{vocabulary.text_vocabulary_size}; enlarge it."
        )
    return pieces


def _library() -> types.ModuleType:
    # Its threads only get in the way of forks, and captions are short.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    return tokenizers
