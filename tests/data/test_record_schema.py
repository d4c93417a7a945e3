"""Rows that fit become records; others are refused in one sentence."""

import dataclasses
import textwrap

import numpy as np
import pytest

from unimod_jax.data import (
    DataConfig,
    DataError,
    describe,
    record_schema,
    validate_record,
)

GREY = np.zeros((8, 8, 1), np.uint8)
GOOD = {"image": GREY, "captions": [b"a seven", "die Sieben"], "label": 7}


def test_the_printed_sample_row_is_the_first_record(train_records):
    sample = textwrap.indent(describe(train_records[0]), "    ")
    assert sample in (record_schema.__doc__ or "")


def test_texts_may_be_bytes_or_str_or_a_single_text():
    record = validate_record(GOOD, DataConfig(), "row 3")
    assert record.captions == ("a seven", "die Sieben")
    assert (record.label, record.key) == (7, "row 3")
    single = validate_record({**GOOD, "captions": b"one text"}, DataConfig(), "row 3")
    assert single.captions == ("one text",)


def test_a_label_is_optional():
    raw = {"image": GREY, "captions": ["a seven"], "key": b"seven.png"}
    record = validate_record(raw, DataConfig(label_feature=""), "row 3")
    assert (record.label, record.key) == (None, "seven.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"captions": []}, "row 3 has no caption"),
        ({"captions": ["a seven", " "]}, "caption 1 of row 3 is empty"),
        ({"captions": [b"\xff\xfe"]}, "not UTF-8"),
        ({"captions": [7]}, "holds 7"),
        ({"image": np.zeros((8, 9, 1), np.uint8)}, "row 3 is 8 x 9 pixels"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "row 3 has 3 channels"),
        ({"image": np.zeros((8, 8), np.uint8)}, r"uint8 \[8, 8\]"),
        ({"image": np.zeros((8, 8, 1), np.float32)}, "float32"),
        ({"label": "seven"}, "label of row 3 is 'seven'"),
    ],
)
def test_a_bad_row_is_refused_by_name(change, words):
    with pytest.raises(DataError, match=words) as error:
        validate_record({**GOOD, **change}, DataConfig(), "row 3")
    _assert_one_sentence(error.value)


def test_an_image_may_be_read_and_checked_when_it_is_asked_for():
    reads = []

    def read():
        reads.append(1)
        return np.full((8, 8, 1), 7, np.uint8)

    record = validate_record({**GOOD, "image": read}, DataConfig(), "row 3")
    assert (record.captions, reads) == (("a seven", "die Sieben"), [])
    for _ in range(2):
        np.testing.assert_array_equal(record.image, read())
    assert len(reads) == 3
    wider = validate_record({**GOOD, "image": read}, DataConfig(image_size=16), "row 3")
    with pytest.raises(DataError, match="row 3 is 8 x 8 pixels"):
        _ = wider.image


SPOKEN = DataConfig(speech_feature="speech", speech_units=10, speech_tokens=4)


def test_speech_is_a_tuple_of_units_if_it_is_asked_for():
    raw = GOOD | {"speech": np.array([3, 9, 0], np.int64)}
    record = validate_record(raw, SPOKEN, "row 3")
    assert record.speech == (3, 9, 0)
    assert "speech    3 9 0" in describe(record).splitlines()
    silent = validate_record(raw, DataConfig(), "row 3")
    assert silent.speech is None
    assert "speech" not in describe(silent)


@pytest.mark.parametrize(
    ("speech", "words"),
    [
        (np.array([0.5]), "not a sequence of integers"),
        (np.array([], np.int64), "has 0 units"),
        (np.ones(5, np.int64), "has 5 units but data.speech_tokens is 4"),
        (np.array([3, 10]), "span 3..10 but data.speech_units is 10"),
        (np.array([-1]), "span -1..-1"),
    ],
)
def test_bad_speech_is_refused_by_name(speech, words):
    with pytest.raises(DataError, match=f"of row 3.*{words}") as error:
        validate_record(GOOD | {"speech": speech}, SPOKEN, "row 3")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["image", "caption", "label", "speech"])
def test_a_missing_feature_is_named_with_its_option(field):
    config = dataclasses.replace(SPOKEN, **{f"{field}_feature": "absent"})
    with pytest.raises(DataError, match=f"'absent'.*data.{field}_feature") as error:
        validate_record(GOOD | {"speech": [1]}, config, "row 3")
    _assert_one_sentence(error.value)


@pytest.mark.parametrize("shape", [(12, 10, 1), (3, 9, 1), (8, 8, 1)])
def test_resizing_gives_the_models_size(shape):
    image = np.full(shape, 200, np.uint8)
    record = validate_record({**GOOD, "image": image}, DataConfig(resize=True), "row 3")
    np.testing.assert_array_equal(record.image, np.full((8, 8, 1), 200, np.uint8))


def test_resizing_crops_the_centre():
    image = np.zeros((8, 24, 1), np.uint8)
    image[:, 8:16] = 255
    record = validate_record({**GOOD, "image": image}, DataConfig(resize=True), "row 3")
    np.testing.assert_array_equal(record.image, np.full((8, 8, 1), 255, np.uint8))


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"image_size": 0},
        {"image_channels": 2},
        {"image_levels": 1},
        {"image_levels": 257},
        {"patch_size": 3},
        {"prompt_dropout": 1.5},
        {"seed": -1},
        {"batch_size": 0},
        {"text_vocabulary_size": 1},
        {"documents_per_row": 0},
        {"image_line": 5},
        {"speech_units": 0, "speech_feature": "speech", "speech_tokens": 4},
        {"speech_tokens": 0, "speech_feature": "speech", "speech_units": 4},
    ],
)
def test_an_option_out_of_range_is_refused(change):
    with pytest.raises(DataError, match=f"data.{next(iter(change))}") as error:
        DataConfig(**change)
    _assert_one_sentence(error.value)


def _assert_one_sentence(error: DataError) -> None:
    text = str(error)
    assert text.endswith(".") and "\n" not in text and ". " not in text
