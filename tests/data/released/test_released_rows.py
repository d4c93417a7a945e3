"""Rows of released templates, id by id, as their published code writes them."""

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
    Notation,
    caption_ids,
    document,
    question_ids,
)
from unimod_jax.data.released import chameleon, emu3, show_o
from unimod_jax.layout import IMAGE, TEXT, SpecialTokens, Stream, lay_out
from unimod_jax.objectives import (
    IMAGE_TO_TEXT,
    TEXT_ONLY,
    TEXT_TO_IMAGE,
    MaskedImage,
    NextToken,
    SequenceSizes,
)

CODES = 12
SIZES = SequenceSizes(
    caption_tokens=40, image_tokens=4, image_patches=0, question_tokens=60
)
STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
LEVELS = np.array([3, 0, 11, 7], np.int32)
DATA = DataConfig(code_size=4)  # two by two codes


def row(objective, sizes, notation, task, tokenizer, text, question=""):
    """All ids of a row in sequence order, with the text and an image of four codes."""
    layouts = objective.layouts(sizes, STREAMS, notation.templates)
    layout = layouts[task]
    filled = document(
        layout,
        DATA,
        notation.vocabulary,
        caption_ids=caption_ids(text, layout, tokenizer),
        question_ids=question_ids(question, layout, tokenizer),
        image=None,
        codes=LEVELS,
    )
    return in_order(lay_out(filled, layout), "token_id_BT").tolist()


def named(tokenizer, *names):
    return [tokenizer.pieces.token_to_id(name) for name in names]


@pytest.fixture
def show(tmp_path):
    rows = 105 + 1 + 10 + CODES + 1
    tokenizer = show_o.read(byte_level(tmp_path), rows=rows, image_codes=CODES)
    templates = show_o.templates(tokenizer.vocabulary.special)
    return tokenizer, Notation(tokenizer.vocabulary, templates)


def test_show_o_rows(show):
    """[t2i][sot] text [eot][soi] image [eoi]; [mmu][soi] image [eoi][sot] dialogue."""
    tokenizer, notation = show
    eot, soi, eoi, t2i, mmu = named(
        tokenizer, "<|endoftext|>", "<|soi|>", "<|eoi|>", "<|t2i|>", "<|mmu|>"
    )
    image = [soi, *(116 + LEVELS).tolist(), eoi]
    arguments = MaskedImage(), SIZES, notation
    drawn = row(*arguments, TEXT_TO_IMAGE, tokenizer, "hello world")
    assert drawn == [t2i, eot, *tokenizer.encode("hello world"), eot, *image]
    unprompted = row(*arguments, TEXT_TO_IMAGE, tokenizer, "")
    assert unprompted == [t2i, eot, eot, *image]
    dialogue = tokenizer.encode("USER: \nhell? ASSISTANT: world")
    answered = row(*arguments, IMAGE_TO_TEXT, tokenizer, "world", "hell?")
    assert answered == [mmu, *image, eot, *dialogue, eot]
    assert row(*arguments, TEXT_ONLY, tokenizer, "he") == [
        eot,
        *tokenizer.encode("he"),
        eot,
    ]


def test_emu3_rows(tmp_path):
    """BOS prompt BOI size IMG lines EOF EOI EOS; the chat around image and question."""
    rows = 256 + 9 + 3 + 205 + 4 + CODES
    tokenizer = emu3.read(tiktoken(tmp_path, CODES), rows=rows, image_codes=CODES)
    templates = emu3.templates(tokenizer, height=2, width=2)
    notation = Notation(tokenizer.vocabulary, templates)
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
    arguments = NextToken(), lined, notation
    assert row(*arguments, TEXT_TO_IMAGE, tokenizer, "hell") == [
        bos,
        *tokenizer.encode("hell"),
        *image,
        eos,
    ]
    answered = row(*arguments, IMAGE_TO_TEXT, tokenizer, "world", "What")
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
    templates = chameleon.templates(tokenizer.vocabulary.special)
    notation = Notation(tokenizer.vocabulary, templates)
    image = [17, *(4 + LEVELS).tolist(), 16]
    arguments = NextToken(), SIZES, notation
    hello = tokenizer.encode("hello")
    assert row(*arguments, TEXT_TO_IMAGE, tokenizer, "hello") == [0, *hello, 19, *image]
    # Unconditional rows of its guidance have no end of turn either.
    assert row(*arguments, TEXT_TO_IMAGE, tokenizer, "") == [0, *image]
    answered = row(*arguments, IMAGE_TO_TEXT, tokenizer, "world", "he?")
    question, answer = tokenizer.encode("he?"), tokenizer.encode("world")
    assert answered == [0, *image, *question, 19, *answer, 2]


def test_a_question_that_is_not_asked_is_refused(show):
    tokenizer, notation = show
    with pytest.raises(DataError, match=r"ask a question .* set data.question"):
        row(MaskedImage(), SIZES, notation, IMAGE_TO_TEXT, tokenizer, "world")


def test_a_long_question_is_refused(show):
    tokenizer, notation = show
    sizes = dataclasses.replace(SIZES, question_tokens=3)
    with pytest.raises(DataError, match=r"'question' segment .* data.question_tokens"):
        row(MaskedImage(), sizes, notation, IMAGE_TO_TEXT, tokenizer, "he", "what?")


def test_images_without_codes_are_refused_where_codes_are_learned(show):
    _, notation = show
    layouts = MaskedImage().layouts(SIZES, STREAMS, notation.templates)
    with pytest.raises(DataError, match=r"no image codes, and data.code_size 4"):
        document(
            layouts[TEXT_TO_IMAGE],
            DATA,
            notation.vocabulary,
            caption_ids=(),
            image=np.zeros((8, 8, 1), np.uint8),
        )


def test_a_vocabulary_with_other_markers_than_its_templates_is_refused(show):
    _, notation = show
    other = dataclasses.replace(notation.vocabulary, special=SpecialTokens(mask=9))
    with pytest.raises(DataError, match="make both from one table"):
        dataclasses.replace(notation, vocabulary=other)
