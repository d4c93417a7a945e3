"""Rows of released tasks, id by id, as their published code writes them."""

import dataclasses

import numpy as np
import pytest

from experiments.checkpoint_tour.tiny_tokenizers import (
    byte_level,
    tiktoken,
    vocabulary_map,
)
from tests.layout.rows_in_sequence_order import in_order
from unimod_jax.data import (
    DataConfig,
    DataError,
    Image,
    Record,
    Text,
    document,
    fill,
)
from unimod_jax.data.released import chameleon, emu3, show_o
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    PartSizes,
    Stream,
    lay_out,
    rows_of_task,
    with_piece,
)

CODES = 12
SIZES = PartSizes(text_tokens=40, image_codes=4)
STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
LEVELS = np.array([3, 0, 11, 7], np.int32)
DATA = DataConfig(code_size=4)  # two by two codes
PIXELS = np.zeros((8, 8, 1), np.uint8)


def record_of(text, question=None, codes=LEVELS):
    """A record of a text, perhaps a question, and an image of four codes."""
    asked = () if question is None else (Text((question,), "question"),)
    return Record((Image(PIXELS, codes=codes), *asked, Text((text,))), "scan-0007")


def laid_out(task, sizes, tokenizer, record):
    """All ids of the record's row in sequence order."""
    layout = rows_of_task(task, sizes, STREAMS, tokenizer.vocabulary.special)
    filled = fill(record, layout, DATA, tokenizer)
    return in_order(lay_out(filled, layout), "token_id_BT").tolist()


def row(family, sizes, task, tokenizer, text, question=None):
    """All ids of a row in sequence order, with the text and an image of four codes."""
    return laid_out(family[task], sizes, tokenizer, record_of(text, question))


def unprompted(family, sizes, tokenizer):
    """All ids of a row that draws an image without a prompt."""
    special = tokenizer.vocabulary.special
    layout = rows_of_task(family["text_to_image"], sizes, STREAMS, special)
    image = Image(PIXELS, codes=LEVELS)
    filled = document({"prompt": "", "image": image}, layout, DATA, tokenizer)
    return in_order(lay_out(filled, layout), "token_id_BT").tolist()


def named(tokenizer, *names):
    return [tokenizer.pieces.token_to_id(name) for name in names]


@pytest.fixture
def show(tmp_path):
    rows = 105 + 1 + 10 + CODES + 1
    tokenizer = show_o.read(byte_level(tmp_path), rows=rows, image_codes=CODES)
    return tokenizer, show_o.tasks(tokenizer)


def test_show_o_rows(show):
    """[t2i][sot] text [eot][soi] image [eoi]; [mmu][soi] image [eoi][sot] dialogue."""
    tokenizer, family = show
    eot, soi, eoi, t2i, mmu = named(
        tokenizer, "<|endoftext|>", "<|soi|>", "<|eoi|>", "<|t2i|>", "<|mmu|>"
    )
    image = [soi, *(116 + LEVELS).tolist(), eoi]
    arguments = family, SIZES
    drawn = row(*arguments, "text_to_image", tokenizer, "hello world")
    assert drawn == [t2i, eot, *tokenizer.encode("hello world"), eot, *image]
    assert unprompted(*arguments, tokenizer) == [t2i, eot, eot, *image]
    dialogue = tokenizer.encode("USER: \nhell? ASSISTANT: world")
    answered = row(*arguments, "image_to_text", tokenizer, "world", "hell?")
    assert answered == [mmu, *image, eot, *dialogue, eot]
    assert row(*arguments, "text_only", tokenizer, "he") == [
        eot,
        *tokenizer.encode("he"),
        eot,
    ]


def test_emu3_rows(tmp_path):
    """BOS prompt BOI size IMG lines EOF EOI EOS; the chat around image and question."""
    rows = 256 + 9 + 3 + 205 + 4 + CODES
    tokenizer = emu3.read(tiktoken(tmp_path, CODES), rows=rows, image_codes=CODES)
    family = emu3.tasks(tokenizer, height=2, width=2)
    bos, eos, boi, img, eol, eof, eoi = named(
        tokenizer,
        *("<|extra_203|>", "<|extra_204|>", "<|image start|>", "<|image token|>"),
        *("<|extra_200|>", "<|extra_201|>", "<|image end|>"),
    )
    start = tokenizer.vocabulary.image_start
    a, b, c, d = (start + LEVELS).tolist()
    image = [boi, *tokenizer.encode("2*2"), img, a, b, eol, c, d, eol, eof, eoi]
    assert len(tokenizer.encode("2*2")) == 3
    lined = dataclasses.replace(SIZES, image_line=2)
    arguments = family, lined
    assert row(*arguments, "text_to_image", tokenizer, "hell") == [
        bos,
        *tokenizer.encode("hell"),
        *image,
        eos,
    ]
    answered = row(*arguments, "image_to_text", tokenizer, "world", "What")
    assert answered == [
        bos,
        *tokenizer.encode("You are a helpful assistant. USER: "),
        *image,
        *tokenizer.encode("What. ASSISTANT: world"),
        eos,
    ]


def test_chameleon_rows(tmp_path):
    """<s> prompt <reserved08706> BOI codes EOI; an image before what is asked."""
    rows = 4 + CODES + 4 + 8 + 6
    path = vocabulary_map(tmp_path, CODES)
    tokenizer = chameleon.read(path, rows=rows, image_codes=CODES)
    family = chameleon.tasks(tokenizer)
    image = [17, *(4 + LEVELS).tolist(), 16]
    arguments = family, SIZES
    hello = tokenizer.encode("hello")
    assert row(*arguments, "text_to_image", tokenizer, "hello") == [
        0,
        *hello,
        19,
        *image,
    ]
    # Unconditional rows of its guidance have no end of turn either.
    assert unprompted(*arguments, tokenizer) == [0, *image]
    answered = row(*arguments, "image_to_text", tokenizer, "world", "he?")
    question, answer = tokenizer.encode("he?"), tokenizer.encode("world")
    assert answered == [0, *image, *question, 19, *answer, 2]


def test_a_record_without_a_question_is_asked_the_published_one(show):
    tokenizer, family = show
    asked, given = (
        row(family, SIZES, "image_to_text", tokenizer, "world", question)
        for question in (None, show_o.DESCRIBE)
    )
    assert asked == given
    undecided = with_piece(family["image_to_text"], "question", default="")
    with pytest.raises(
        DataError, match=r"has no part 'question', .* give it a default"
    ):
        laid_out(undecided, SIZES, tokenizer, record_of("world"))


def test_a_long_question_is_refused(show):
    tokenizer, family = show
    short = with_piece(family["image_to_text"], "question", num_slots=3)
    with pytest.raises(DataError, match=r"'question' segment .* piece's num_slots"):
        laid_out(short, SIZES, tokenizer, record_of("he", "what?"))


def test_images_without_codes_are_refused_where_codes_are_learned(show):
    tokenizer, family = show
    with pytest.raises(DataError, match=r"no image codes, and data.code_size 4"):
        drawn = family["text_to_image"]
        laid_out(drawn, SIZES, tokenizer, record_of("he", codes=None))


def test_rows_carry_the_markers_of_their_vocabulary(show):
    tokenizer, family = show
    special = tokenizer.vocabulary.special
    for task in family.values():
        assert rows_of_task(task, SIZES, STREAMS, special).special == special
        fixed = {piece.name: piece.ids for piece in task.pieces if piece.ids}
        assert fixed["begin"] == (special.begin,)
