"""Emu3 (arXiv 2409.18869): Qwen's text, 211 special tokens, then 32,768 image codes.

The original repositories have `emu3.tiktoken` with `emu3_vision_tokens.txt` beside it;
the `-hf` ones have a tokenizer.json with the same ids. Rows are those of its code
(baaivision/Emu3, emu3/mllm/processing_emu3.py): an image says its height and width in
codes before it begins, every line of codes is ended, and so is the image.
"""

import dataclasses
import os
import re

from unimod_jax.data.record_schema import DataError
from unimod_jax.data.released.tiktoken_ranks import pieces_of_ranks
from unimod_jax.data.released.tokenizer_files import (
    QUESTION_TOKENS,
    REMEDY,
    check_rows,
    find_file,
    marker_ids,
)
from unimod_jax.data.text_tokenizer import TextTokenizer, read_pieces
from unimod_jax.data.vocabulary import Vocabulary
from unimod_jax.layout import (
    TEXT,
    Piece,
    SpecialTokens,
    TaskFamily,
    next_token_tasks,
    with_piece,
)

IMAGE_CODES = 32_768
ROWS = 184_622

SYSTEM = "You are a helpful assistant. USER: "
QUESTION = "{}. ASSISTANT:"
DESCRIBE = "Please describe the image"
"""What an image is asked where nothing else is given."""

_TEXT_END, _BEGIN, _END = "<|endoftext|>", "<|extra_203|>", "<|extra_204|>"
_END_OF_LINE, _END_OF_FRAME = "<|extra_200|>", "<|extra_201|>"
_BEGIN_IMAGE, _END_IMAGE = "<|image start|>", "<|image end|>"
_CODES_FOLLOW = "<|image token|>"
_CODE = re.compile(r"<\|visual token (\d+)\|>")


def read(
    path: str | os.PathLike[str], *, rows: int = ROWS, image_codes: int = IMAGE_CODES
) -> TextTokenizer:
    """Emu3's tokenizer.

    Args:
      path: tokenizer.json, emu3.tiktoken, or a folder with one of them.
      rows: embedding rows of the model.
      image_codes: of its image tokenizer.

    Raises:
      DataError: if a file is missing, damaged, or not the model's.
    """
    path = find_file(path, ("tokenizer.json", "emu3.tiktoken"))
    is_ranks = path.suffix == ".tiktoken"
    pieces = pieces_of_ranks(path) if is_ranks else read_pieces(path, REMEDY)
    names = (_BEGIN, _END, _BEGIN_IMAGE, _END_IMAGE, _END_OF_LINE, _TEXT_END)
    begin, end, begin_image, end_image, end_of_line, text_end = marker_ids(
        pieces, names, path
    )
    found = {
        int(match[1]): token
        for name, token in pieces.get_vocab().items()
        if (match := _CODE.fullmatch(name))
    }
    image_start = found.get(0, 0)
    if found != {code: image_start + code for code in range(image_codes)}:
        raise DataError(
            f"tokenizer file {os.fspath(path)!r} has {len(found)} visual tokens but "
            f"the model has {image_codes} image codes with consecutive ids; {REMEDY}."
        )
    check_rows(pieces.get_vocab_size(), rows, path)
    special = SpecialTokens.only(
        begin=begin,
        end=end,
        begin_image=begin_image,
        end_image=end_image,
        end_of_line=end_of_line,
    )
    vocabulary = Vocabulary(
        special,
        text_start=0,
        text_pieces=pieces.get_vocab_size(),
        words=((0, text_end),),
        image_start=image_start,
        image_codes=image_codes,
        rows=rows,
        one_line=False,
    )
    return TextTokenizer(pieces, vocabulary)


def tasks(tokenizer: TextTokenizer, height: int, width: int) -> TaskFamily:
    """Rows of images of one size, and of questions about them.

    Args:
      tokenizer: of `read`; it makes the ids of fixed text.
      height: lines of codes.
      width: codes per line.
    """
    special, pieces = tokenizer.vocabulary.special, tokenizer.pieces
    codes_follow, end_of_frame = marker_ids(
        pieces, (_CODES_FOLLOW, _END_OF_FRAME), "Emu3"
    )
    size = tokenizer.encode(f"{height}*{width}")
    opening = (special.begin_image, *size, codes_follow)
    closing = (end_of_frame, special.end_image)
    family = dict(next_token_tasks(special))
    drawn = family["text_to_image"]
    drawn = with_piece(drawn, "begin_image", ids=opening)
    drawn = with_piece(drawn, "end_image", ids=closing)
    end = Piece("end", ids=(special.end,))
    described = family["image_to_text"]
    system = (special.begin, *tokenizer.encode(SYSTEM))
    described = with_piece(described, "begin", ids=system)
    described = with_piece(described, "begin_image", ids=opening)
    described = with_piece(described, "end_image", ids=closing)
    described = with_piece(described, "caption", wording=" {}")
    question = Piece(
        *("question", TEXT, QUESTION_TOKENS),
        part="question",
        predicted_by="nothing",
        wording=QUESTION,
        default=DESCRIBE,
    )
    *shown, answer = described.pieces
    return family | {
        "text_to_image": dataclasses.replace(drawn, pieces=(*drawn.pieces, end)),
        "image_to_text": dataclasses.replace(
            described, pieces=(*shown, question, answer)
        ),
    }
