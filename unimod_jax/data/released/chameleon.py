"""Chameleon (arXiv 2405.09818): one vocabulary map for markers, image codes and text.

Entries are told apart by their names, as in its code (facebookresearch/chameleon,
inference/vocab.py): `IMGIMG...Z` are image codes, with the digits 0 to 9 written as A
to J; other names that begin with "<" are special; the rest is text.
"""

import dataclasses
import os
from pathlib import Path

from unimod_jax.data.record_schema import DataError
from unimod_jax.data.released.tokenizer_files import (
    QUESTION_TOKENS,
    REMEDY,
    check_rows,
    find_file,
    marker_ids,
    runs_of,
)
from unimod_jax.data.text_tokenizer import (
    TextTokenizer,
    read_pieces,
    tokenizers_library,
)
from unimod_jax.data.vocabulary import Vocabulary
from unimod_jax.layout import (
    TEXT,
    Piece,
    SpecialTokens,
    TaskFamily,
    next_token_tasks,
    with_piece,
)

IMAGE_CODES = 8192
ROWS = 65_536

END_OF_TURN = "<reserved08706>"
"""Ends what the user says; a dropped prompt drops it too."""

QUESTION = "Describe this image."
"""What an image is asked where nothing else is given."""

_CODE_PREFIX, _CODE_SUFFIX = "IMGIMG", "Z"
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")


def read(
    path: str | os.PathLike[str], *, rows: int = ROWS, image_codes: int = IMAGE_CODES
) -> TextTokenizer:
    """Chameleon's tokenizer.

    Args:
      path: text_tokenizer.json, the Hugging Face repository's tokenizer.json, or a
        folder with one of them.
      rows: embedding rows of the model.
      image_codes: of its image tokenizer.

    Raises:
      DataError: if the file is missing, damaged, or not the model's.
    """
    path = find_file(path, ("text_tokenizer.json", "tokenizer.json"))
    pieces = read_pieces(path, REMEDY)
    names = ("<s>", "</s>", "<racm3:break>", "<eoss>")
    begin, end, begin_image, end_image = marker_ids(pieces, names, path)
    # Already in the map; now it is also found in a prompt's wording.
    marker_ids(pieces, (END_OF_TURN,), path)
    token = tokenizers_library().AddedToken
    pieces.add_special_tokens([token(END_OF_TURN, special=True, normalized=False)])
    vocabulary_map = pieces.get_vocab()
    image_start = _first_image_id(vocabulary_map, image_codes, path)
    check_rows(max(vocabulary_map.values()) + 1, rows, path)
    special = SpecialTokens.only(
        begin=begin,
        end=end,
        begin_image=begin_image,
        end_image=end_image,
    )
    vocabulary = Vocabulary(
        special,
        text_start=0,
        text_pieces=rows,
        words=runs_of(i for name, i in vocabulary_map.items() if _is_text(name)),
        image_start=image_start,
        image_codes=image_codes,
        rows=rows,
        one_line=False,
    )
    return TextTokenizer(pieces, vocabulary)


def tasks(tokenizer: TextTokenizer) -> TaskFamily:
    """Rows of its code's prompts: an image is shown before what is asked about it."""
    family = dict(next_token_tasks(tokenizer.vocabulary.special))
    turn = f"{{}}{END_OF_TURN}"
    family["text_to_image"] = with_piece(
        family["text_to_image"], "prompt", wording=turn
    )
    described = family["image_to_text"]
    question = Piece(
        *("question", TEXT, QUESTION_TOKENS),
        part="question",
        predicted_by="nothing",
        wording=turn,
        default=QUESTION,
    )
    *shown, caption = described.pieces
    family["image_to_text"] = dataclasses.replace(
        described, pieces=(*shown, question, caption)
    )
    return family


def _is_code(name: str) -> bool:
    return name.startswith(_CODE_PREFIX)


def _is_text(name: str) -> bool:
    return not _is_code(name) and (name == "<" or not name.startswith("<"))


def _first_image_id(
    vocabulary_map: dict[str, int], image_codes: int, path: Path
) -> int:
    """Id of image code 0; the published code takes the others to follow in order.

    Its way back from ids to codes searches both in sorted order, which is right for no
    other map.

    Raises:
      DataError: if the codes are too few or too many, or not in order.
    """
    found = {}
    for name, token in vocabulary_map.items():
        digits = name[len(_CODE_PREFIX) :].removesuffix(_CODE_SUFFIX)
        digits = digits.translate(_DIGITS)
        if _is_code(name) and digits.isdigit():
            found[int(digits)] = token
    first = found.get(0, 0)
    if found != {code: first + code for code in range(image_codes)}:
        raise DataError(
            f"tokenizer file {os.fspath(path)!r} has {len(found)} image codes but the "
            f"model has {image_codes} with consecutive ids; {REMEDY}."
        )
    return first
