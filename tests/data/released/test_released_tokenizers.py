"""Released vocabularies come out of the published files, or are refused in a sentence.

Expected ids are counted by hand from the tiny files; tiktoken's own algorithm, a few
lines, is the oracle of its conversion.
"""

import base64
import itertools
import json
import re

import numpy as np
import pytest

from experiments.checkpoint_tour.tiny_tokenizers import (
    byte_level,
    tiktoken,
    vocabulary_map,
)
from unimod_jax.data import DataError, TextTokenizer
from unimod_jax.data.released import chameleon, emu3, show_o
from unimod_jax.data.released.tokenizer_files import runs_of
from unimod_jax.layout import ABSENT

CODES = 12
TEXT_IDS = 105  # 96 single characters and 9 merges of the byte-level file
SHOW_O_ROWS = TEXT_IDS + 1 + 10 + CODES + 1
EMU3_ROWS = 256 + 9 + 3 + 205 + 4 + CODES
CHAMELEON_ROWS = 4 + CODES + 4 + 8 + 6


def read_show_o(path):
    return show_o.read(path, rows=SHOW_O_ROWS, image_codes=CODES)


def read_emu3(path):
    return emu3.read(path, rows=EMU3_ROWS, image_codes=CODES)


def read_chameleon(path):
    return chameleon.read(path, rows=CHAMELEON_ROWS, image_codes=CODES)


def test_show_o_adds_markers_codes_and_mask_behind_its_text(tmp_path):
    byte_level(tmp_path)
    tokenizer = read_show_o(tmp_path)
    vocabulary, special = tokenizer.vocabulary, tokenizer.vocabulary.special
    assert (special.begin, special.end) == (105, 105)
    # [PAD] 106, soi 107, eoi 108, sov, eov, t2i 111, mmu 112, t2v, v2v, lvg 115
    assert (special.begin_image, special.end_image) == (107, 108)
    tasks = show_o.tasks(tokenizer)
    assert tasks["text_to_image"].pieces[0].ids == (111,)
    assert tasks["image_to_text"].pieces[0].ids == (112,)
    assert vocabulary.image_start == 116
    assert special.mask == 116 + CODES == vocabulary.size - 1
    assert vocabulary.words == ((0, 106),)
    assert special.end_of_line == special.begin_speech == ABSENT


def test_published_show_o_ids_follow_from_phis_50295():
    assert show_o.ROWS == 50_295 + 10 + show_o.IMAGE_CODES + 1


def test_published_emu3_ids_follow_from_qwens_151643():
    assert emu3.ROWS == 151_643 + 3 + 205 + 3 + emu3.IMAGE_CODES


def test_emu3_finds_its_markers_by_name(tmp_path):
    tokenizer = read_emu3(tiktoken(tmp_path, CODES))
    vocabulary, special = tokenizer.vocabulary, tokenizer.vocabulary.special
    first = 256 + 9  # <|endoftext|>
    assert vocabulary.words == ((0, first),)
    extra = first + 3
    assert (special.begin, special.end) == (extra + 203, extra + 204)
    assert special.end_of_line == extra + 200
    assert (special.begin_image, special.end_image) == (extra + 206, extra + 207)
    assert vocabulary.image_start == extra + 205 + 4
    assert vocabulary.size == vocabulary.used == EMU3_ROWS


def test_chameleon_tells_its_map_apart_by_names(tmp_path):
    tokenizer = read_chameleon(vocabulary_map(tmp_path, CODES))
    vocabulary, special = tokenizer.vocabulary, tokenizer.vocabulary.special
    assert (special.begin, special.end) == (0, 2)
    assert vocabulary.image_start == 4
    assert (special.end_image, special.begin_image) == (16, 17)
    # Text from the first letter on, but for the one reserved name among it.
    assert vocabulary.words == ((20, 32), (33, 34))
    assert vocabulary.size == CHAMELEON_ROWS


def test_words_are_those_that_the_tokenizer_has(tmp_path):
    vocabulary = read_chameleon(vocabulary_map(tmp_path, CODES)).vocabulary
    for pieces, words in (
        (CHAMELEON_ROWS, ((20, 32), (33, 34))),
        (33, ((20, 32),)),
        (22, ((20, 22),)),
        (20, ()),
    ):
        assert vocabulary.words_among(pieces) == words
        every = [token for start, end in words for token in range(start, end)]
        np.testing.assert_array_equal(np.flatnonzero(vocabulary.is_word(pieces)), every)


TEXTS = (
    "hello world",
    "Hell, 64*64. It's in  a line\n\n and\tone more ",
    "smörgås 你好 🙂",
    "  leading",
    "",
)


def tiktoken_ids(text, ranks, words):
    """Byte-pair encoding as tiktoken does it: the lowest rank first, leftmost first."""
    ids = []
    for word in words.findall(text):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [
                (ranks[a + b], i)
                for i, (a, b) in enumerate(itertools.pairwise(parts))
                if a + b in ranks
            ]
            if not pairs:
                break
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@pytest.mark.parametrize("text", TEXTS)
def test_tiktoken_ranks_encode_as_tiktoken_does(tmp_path, text):
    path = tiktoken(tmp_path, CODES)
    tokenizer = read_emu3(path)
    pairs = [line.split() for line in path.read_bytes().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    # Python's re has no \p{L}: letters are word characters but digits and underscores.
    words = re.compile(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\r\n\w]|_)?[^\W\d_]+|\d"
        r"| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    assert tokenizer.encode(text) == tiktoken_ids(text, ranks, words)
    assert tokenizer.decode(tokenizer.encode(text)) == text.strip()


def test_released_text_keeps_its_case_and_lines(tmp_path):
    tokenizer = read_show_o(byte_level(tmp_path))
    text = "Two lines:\n\n  one  HELLO"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    end = tokenizer.vocabulary.special.end
    image = tokenizer.vocabulary.image_start
    assert tokenizer.decode([*tokenizer.encode("hell"), end, image]) == "hell"


def test_rows_begin_where_the_template_says_not_where_the_file_does(tmp_path):
    tokenizer = read_chameleon(vocabulary_map(tmp_path, CODES))
    assert tokenizer.encode("he")[0] != tokenizer.vocabulary.special.begin
    assert tokenizer.encode("he" + chameleon.END_OF_TURN)[-1] == 19


@pytest.mark.parametrize("name", ["show_o", "emu3", "chameleon"])
def test_a_saved_released_tokenizer_is_the_same(tmp_path, name):
    make, read = {
        "show_o": (byte_level, read_show_o),
        "emu3": (lambda folder: tiktoken(folder, CODES), read_emu3),
        "chameleon": (lambda folder: vocabulary_map(folder, CODES), read_chameleon),
    }[name]
    tokenizer = read(make(tmp_path))
    tokenizer.save(tmp_path / "run.json")
    again = TextTokenizer.load(tmp_path / "run.json", tokenizer.vocabulary)
    text = "hello world<reserved08706>"
    assert again.encode(text) == tokenizer.encode(text)
    ids = tokenizer.encode(text)
    assert again.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("read", [read_show_o, read_emu3, read_chameleon])
def test_a_missing_file_is_refused(tmp_path, read):
    with pytest.raises(DataError, match="neither a tokenizer file nor a folder") as e:
        read(tmp_path / "absent")
    assert "\n" not in str(e.value)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{")
    for read in (read_show_o, read_emu3, read_chameleon):
        with pytest.raises(DataError, match=r"damaged .* that were released with the"):
            read(path)
    ranks = tiktoken(tmp_path, CODES)
    ranks.write_text("aGVsbG8= 0\naGVsbG8= 7\n")
    with pytest.raises(DataError, match="does not have the ranks"):
        read_emu3(ranks)
    ranks.write_text("hello\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_emu3(ranks)
    ranks = tiktoken(tmp_path, CODES)
    (tmp_path / "emu3_vision_tokens.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*emu3_vision_tokens"):
        read_emu3(ranks)


def test_the_tokenizer_of_another_model_is_refused(tmp_path):
    phi = byte_level(tmp_path)
    with pytest.raises(DataError, match=r"a vocabulary of 129 ids but the model has 7"):
        show_o.read(phi, rows=7, image_codes=CODES)
    with pytest.raises(DataError, match="has no token '<s>'"):
        read_chameleon(phi)
    with pytest.raises(DataError, match="has 12 visual tokens but the model has 16"):
        emu3.read(tiktoken(tmp_path, CODES), rows=EMU3_ROWS, image_codes=16)
    meta = vocabulary_map(tmp_path, CODES)
    with pytest.raises(DataError, match="has 12 image codes but the model has 16"):
        chameleon.read(meta, rows=CHAMELEON_ROWS, image_codes=16)
    with pytest.raises(DataError, match="a vocabulary of 34 ids but the model has 35"):
        chameleon.read(meta, rows=35, image_codes=CODES)


def test_image_codes_out_of_order_are_refused(tmp_path):
    path = vocabulary_map(tmp_path, CODES)
    content = json.loads(path.read_text())
    entries = content["model"]["vocab"]
    entries["IMGIMGAZ"], entries["IMGIMGBZ"] = entries["IMGIMGBZ"], entries["IMGIMGAZ"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="with consecutive ids"):
        read_chameleon(path)


def test_runs_hold_consecutive_ids():
    assert runs_of([5, 3, 4, 9]) == ((3, 6), (9, 10))
    assert runs_of([]) == ()
