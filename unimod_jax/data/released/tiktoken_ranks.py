"""A tiktoken file as a tokenizer of the `tokenizers` library.

The file lists byte strings and their ranks, one per line. A pair of neighbours is
merged if it makes a listed string, the lowest rank first; that is byte-pair encoding
whose merges are all ways to put a string together, in the order of the string's rank.
"""

import base64
import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING

from unimod_jax.data.record_schema import DataError
from unimod_jax.data.released.tokenizer_files import REMEDY
from unimod_jax.data.text_tokenizer import tokenizers_library

if TYPE_CHECKING:
    import tokenizers

VISION_TOKENS = "emu3_vision_tokens.txt"

_NUM_EXTRA = 205

_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What is encoded as a unit, as published (emu3/mllm/tokenization_emu3.py): digits one
by one, as in Qwen's tokenizer."""


def pieces_of_ranks(path: Path) -> "tokenizers.Tokenizer":
    """Emu3's original tokenizer.

    Args:
      path: emu3.tiktoken; the names of its vision tokens are in a file beside it.

    Raises:
      DataError: if a file is missing or damaged.
    """
    ranks = _read_ranks(path)
    beside = path.with_name(VISION_TOKENS)
    try:
        lines = beside.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {os.fspath(beside)!r} ({error}); {REMEDY}."
        ) from error
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    special += [f"<|extra_{number}|>" for number in range(_NUM_EXTRA)]
    special += [line.strip() for line in lines if line.strip()]
    library = tokenizers_library()
    name_of = {token: _printable(token) for token in ranks}
    merges = [
        (name_of[token[:place]], name_of[token[place:]])
        for token in sorted(ranks, key=lambda token: ranks[token])
        for place in range(1, len(token))
        if token[:place] in ranks and token[place:] in ranks
    ]
    vocabulary = {name_of[token]: rank for token, rank in ranks.items()}
    pieces = library.Tokenizer(
        library.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True)
    )
    splits = library.pre_tokenizers
    pieces.normalizer = library.normalizers.NFC()
    pieces.pre_tokenizer = splits.Sequence(
        [
            splits.Split(library.Regex(_WORD), "isolated"),
            splits.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces.decoder = library.decoders.ByteLevel()
    pieces.add_special_tokens(
        [library.AddedToken(name, special=True, normalized=False) for name in special]
    )
    return pieces


def _read_ranks(path: Path) -> dict[bytes, int]:
    try:
        lines = path.read_bytes().splitlines()
        pairs = [line.split() for line in lines if line]
        ranks = {
            base64.b64decode(token, validate=True): int(rank) for token, rank in pairs
        }
    except (OSError, ValueError, binascii.Error) as error:
        raise DataError(
            f"tokenizer file {os.fspath(path)!r} cannot be read ({error}); {REMEDY}."
        ) from error
    if not ranks or sorted(ranks.values()) != list(range(len(ranks))):
        raise DataError(
            f"tokenizer file {os.fspath(path)!r} does not have the ranks 0 to "
            f"{len(ranks) - 1}, each once; {REMEDY}."
        )
    return ranks


def _printable(token: bytes) -> str:
    """The bytes as the library's byte level writes them: a visible character each."""
    return "".join(_CHARACTER_OF_BYTE[byte] for byte in token)


def _characters_of_bytes() -> list[str]:
    """GPT-2's table: visible Latin-1 characters stand for themselves, others follow."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in visible]
    table = {byte: chr(byte) for byte in visible}
    table |= {byte: chr(0x100 + place) for place, byte in enumerate(others)}
    return [table[byte] for byte in range(0x100)]


_CHARACTER_OF_BYTE = _characters_of_bytes()
