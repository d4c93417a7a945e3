"""Captions become few ids and come back as they were."""

import dataclasses

import pytest

from unimod_jax.data import DataConfig, DataError, TextTokenizer, Vocabulary
from unimod_jax.layout import PADDING, TASK_IDS

VOCABULARY = Vocabulary.of(DataConfig())


def test_native_ids_do_not_overlap():
    special = sorted([PADDING, *VOCABULARY.special.ids])
    assert special == [*range(9)]
    assert list(TASK_IDS) == [*range(9, 16)]
    assert VOCABULARY.text_start == 16
    assert VOCABULARY.words == ((16, 144),)
    assert VOCABULARY.image_start == 144
    assert VOCABULARY.speech_start == VOCABULARY.used == 161
    assert VOCABULARY.size == 192
    spoken = Vocabulary.native(128, 17, 50)
    assert (spoken.used, spoken.size) == (211, 224)


def test_more_ids_than_embedding_rows_are_refused():
    with pytest.raises(DataError, match=r"uses 161 ids but the model has 160 embed"):
        dataclasses.replace(VOCABULARY, rows=160)
    assert dataclasses.replace(VOCABULARY, rows=161).size == 161


def test_every_word_of_the_digits_is_one_token(tokenizer, train_records):
    for record in train_records:
        for text in record.texts:
            ids = tokenizer.encode(text)
            assert len(ids) == len(text.split())
            assert tokenizer.decode(ids) == text


def test_text_ids_stay_in_their_range(tokenizer, train_records):
    ids = {i for r in train_records for text in r.texts for i in tokenizer.encode(text)}
    assert min(ids) >= VOCABULARY.text_start
    assert max(ids) < VOCABULARY.image_start


def test_decoding_drops_what_is_not_text(tokenizer):
    special = VOCABULARY.special
    ids = [special.begin, *tokenizer.encode("the digit 7"), special.end]
    every_other = [PADDING, VOCABULARY.image_start, VOCABULARY.size]
    unused = VOCABULARY.image_start - 1
    assert tokenizer.decode([*ids, *every_other, unused]) == "the digit 7"


def test_case_and_unknown_characters_do_not_matter(tokenizer):
    assert tokenizer.decode(tokenizer.encode("  THE digit   7 \u2603")) == "the digit 7"
    assert tokenizer.encode("") == []


def test_punctuation_comes_back_where_it_was():
    vocabulary = Vocabulary.native(256, 17)
    captions = ["a dog, a cat (two).", "don't run!"]
    tokenizer = TextTokenizer.train(captions, vocabulary)
    for text in captions:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_is_deterministic(tokenizer, train_records):
    captions = [text for record in train_records for text in record.texts]
    again = TextTokenizer.train(reversed(captions), VOCABULARY)
    assert again.pieces.to_str() == tokenizer.pieces.to_str()


def test_too_many_characters_are_refused():
    captions = ["".join(map(chr, range(0x4E00, 0x4E00 + 300)))]
    with pytest.raises(DataError, match=r"the vocabulary has 128 for them; enlarge"):
        TextTokenizer.train(captions, VOCABULARY)


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "run" / "tokenizer.json")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tokenizer.json"]
    again = TextTokenizer.load(tmp_path / "run" / "tokenizer.json", VOCABULARY)
    assert again.encode("a handwritten 7") == tokenizer.encode("a handwritten 7")


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0"', "\u0000"])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"tokenizer.json' is damaged") as error:
        TextTokenizer.load(path, VOCABULARY)
    assert "\n" not in str(error.value)


def test_a_missing_or_too_large_file_is_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match="cannot read tokenizer file"):
        TextTokenizer.load(tmp_path / "absent.json", VOCABULARY)
    tokenizer.save(tmp_path / "large.json")
    with pytest.raises(DataError, match=r"the vocabulary has 64 for them; enlarge"):
        TextTokenizer.load(tmp_path / "large.json", Vocabulary.native(64, 17))
