"""Show-o (arXiv 2408.12528): Phi-1.5's text, ten markers, image codes, and the mask.

As its code adds them (showlab/Show-o, training/prompting_utils.py and the model's
configuration): behind the tokenizer's 50,295 ids come `[PAD]` and nine markers, at
50,305 the 8,192 codes of MAGVIT-v2, and last the mask: 58,498 ids. Begin and end of a
text are both Phi's `<|endoftext|>`.
"""

import dataclasses
import os

from unimod_jax.data.released.tokenizer_files import (
    QUESTION_TOKENS,
    REMEDY,
    check_rows,
    find_file,
    marker_ids,
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
    masked_image_tasks,
    with_piece,
)

IMAGE_CODES = 8192
ROWS = 58_498

QUESTION = "USER: \n{} ASSISTANT:"
"""inference_mmu.py; the answer begins with a space."""

DESCRIBE = "Please describe this image in detail."
"""What an image is asked where nothing else is given."""

_MARKERS = (
    *("[PAD]", "<|soi|>", "<|eoi|>", "<|sov|>", "<|eov|>"),
    *("<|t2i|>", "<|mmu|>", "<|t2v|>", "<|v2v|>", "<|lvg|>"),
)


def read(
    path: str | os.PathLike[str],
    *,
    rows: int | None = ROWS,
    image_codes: int = IMAGE_CODES,
) -> TextTokenizer:
    """Phi's tokenizer with Show-o's markers.

    Args:
      path: Phi-1.5's tokenizer.json, or its folder.
      rows: embedding rows of the model; None for one that gets as many as it needs.
      image_codes: of its image tokenizer.

    Raises:
      DataError: if the file is missing, damaged, or not the model's.
    """
    path = find_file(path, ("tokenizer.json",))
    pieces = read_pieces(path, REMEDY)
    (end,) = marker_ids(pieces, ("<|endoftext|>",), path)
    num_text = pieces.get_vocab_size()
    token = tokenizers_library().AddedToken
    pieces.add_special_tokens(
        [token(marker, special=True, normalized=False) for marker in _MARKERS]
    )
    image_start = num_text + len(_MARKERS)
    mask = image_start + image_codes
    rows = mask + 1 if rows is None else rows
    check_rows(mask + 1, rows, path)
    of = dict(zip(_MARKERS, marker_ids(pieces, _MARKERS, path), strict=True))
    special = SpecialTokens.only(
        begin=end,
        end=end,
        begin_image=of["<|soi|>"],
        end_image=of["<|eoi|>"],
        mask=mask,
    )
    vocabulary = Vocabulary(
        special,
        text_start=0,
        text_pieces=pieces.get_vocab_size(),
        words=((0, num_text),),
        image_start=image_start,
        image_codes=image_codes,
        rows=rows,
        one_line=False,
    )
    return TextTokenizer(pieces, vocabulary)


def tasks(tokenizer: TextTokenizer) -> TaskFamily:
    """The rows of its demos: a question about each image, then the answer.

    Its pre-training captions have no question; `masked_image_tasks` alone has those
    rows.
    """
    markers = marker_ids(tokenizer.pieces, ("<|t2i|>", "<|mmu|>"), "Show-o")
    task_id: dict[str, int] = dict(
        zip(("text_to_image", "image_to_text"), markers, strict=True)
    )
    family = dict(masked_image_tasks(tokenizer.vocabulary.special, task_id))
    described = with_piece(family["image_to_text"], "caption", wording=" {}")
    question = Piece(
        *("question", TEXT, QUESTION_TOKENS),
        part="question",
        predicted_by="nothing",
        wording=QUESTION,
        default=DESCRIBE,
    )
    *shown, answer = described.pieces
    family["image_to_text"] = dataclasses.replace(
        described, pieces=(*shown, question, answer)
    )
    return family
