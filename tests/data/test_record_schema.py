"""Rows that fit become records; others are refused in one sentence."""

import dataclasses
import io
import textwrap

import numpy as np
import pytest
from PIL import Image as PillowImage

from unimod_jax.data import (
    DataConfig,
    DataError,
    Image,
    Record,
    Speech,
    Text,
    describe,
    read_record,
    record_schema,
)

GREY = np.zeros((8, 8, 1), np.uint8)
GOOD = {"image": GREY, "captions": [b"a seven", "die Sieben"], "label": 7}


def test_the_printed_sample_row_is_the_first_record(train_records):
    sample = textwrap.indent(describe(train_records[0]), "    ")
    assert sample in (record_schema.__doc__ or "")


def test_texts_may_be_bytes_or_str_or_a_single_text():
    record = read_record(GOOD, DataConfig(), "row 3")
    image, captions = record.parts
    assert isinstance(image, Image)
    assert captions == Text(("a seven", "die Sieben"))
    assert (record.attributes, record.key) == ({"label": 7}, "row 3")
    single = read_record({**GOOD, "captions": b"one text"}, DataConfig(), "row 3")
    assert single.texts == ("one text",)


def test_attributes_are_those_that_are_asked_for():
    raw = {"image": GREY, "captions": ["a seven"], "key": b"seven.png"}
    record = read_record(raw, DataConfig(attributes=()), "row 3")
    assert (record.attributes, record.key) == ({}, "seven.png")
    described = raw | {"writer": b"Ada", "label": np.int64(7)}
    config = DataConfig(attributes=("writer", "label"))
    found = read_record(described, config, "row 3").attributes
    assert found == {"writer": "Ada", "label": 7}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"captions": []}, "row 3 has an empty feature 'text'"),
        ({"captions": ["a seven", " "]}, "text 1 of row 3 is empty"),
        ({"captions": [b"\xff\xfe"]}, "not UTF-8"),
        ({"captions": ["a seven", 7]}, "no sequence of speech units"),
        ({"image": np.zeros((8, 9, 1), np.uint8)}, "row 3 is 8 x 9 pixels"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "row 3 has 3 channels"),
        (
            {"image": np.zeros((8, 8), np.uint8)},
            r"uint8 \[8, 8\]: no text, no uint8 image",
        ),
        ({"image": np.zeros((8, 8, 1), np.float32)}, "float32"),
        ({"label": 7.5}, "attribute 'label' of row 3 is 7.5, neither"),
        ({"label": GREY}, r"is uint8 \[8, 8, 1\], neither"),
        ({"key": 7}, "text feature that holds 7"),
    ],
)
def test_a_bad_row_is_refused_by_name(change, words):
    with pytest.raises(DataError, match=words) as error:
        read_record({**GOOD, **change}, DataConfig(), "row 3")
    _assert_one_sentence(error.value)


def test_an_image_may_be_read_and_checked_when_it_is_asked_for():
    reads = []

    def read():
        reads.append(1)
        return np.full((8, 8, 1), 7, np.uint8)

    record = read_record({**GOOD, "image": read}, DataConfig(), "row 3")
    assert (record.texts, reads) == (("a seven", "die Sieben"), [])
    for _ in range(2):
        np.testing.assert_array_equal(record.images[0].pixels, read())
    assert len(reads) == 3
    wider = read_record({**GOOD, "image": read}, DataConfig(image_size=16), "row 3")
    with pytest.raises(DataError, match="row 3 is 8 x 8 pixels"):
        _ = wider.images[0].pixels


SPOKEN = DataConfig(
    parts=("image", "text=captions", "speech"), speech_units=10, speech_tokens=4
)


def test_speech_is_a_tuple_of_units_if_it_is_asked_for():
    raw = GOOD | {"speech": np.array([3, 9, 0], np.int64)}
    record = read_record(raw, SPOKEN, "row 3")
    assert record.part("speech") == Speech((3, 9, 0))
    assert "speech    3 9 0" in describe(record).splitlines()
    silent = read_record(raw, DataConfig(), "row 3")
    assert silent.part("speech") is None
    assert "speech" not in describe(silent)


@pytest.mark.parametrize(
    ("speech", "words"),
    [
        (np.array([0.5]), "no sequence of speech units"),
        (np.array([], np.int64), "an empty feature"),
        (np.ones(5, np.int64), "has 5 units but data.speech_tokens is 4"),
        (np.array([3, 10]), "span 3..10 but data.speech_units is 10"),
        (np.array([-1]), "span -1..-1"),
    ],
)
def test_bad_speech_is_refused_by_name(speech, words):
    with pytest.raises(DataError, match=f"row 3.*{words}") as error:
        read_record(GOOD | {"speech": speech}, SPOKEN, "row 3")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"parts": ("image=absent",)}, "absent"),
        ({"parts": ("image", "absent")}, "absent"),
        ({"parts": ("text=turns/absent",)}, "turns/absent"),
        ({"parts": ("text=captions/absent",)}, "captions/absent"),
        ({"attributes": ("absent",)}, "absent"),
    ],
)
def test_a_missing_feature_is_named_with_its_option(option, name):
    config = dataclasses.replace(SPOKEN, **option)
    raw = GOOD | {"speech": [1], "turns": {"question": ["which?"]}}
    (field,) = option
    with pytest.raises(DataError, match=f"'{name}'.*data.{field}") as error:
        read_record(raw, config, "row 3")
    _assert_one_sentence(error.value)


# --- Records of many parts ------------------------------------------------------------


def _png(value):
    buffer = io.BytesIO()
    PillowImage.new("L", (8, 8), value).save(buffer, format="png")
    return buffer.getvalue()


def _shown(record):
    """The parts of a record, an image as the value of its pixels."""
    return [
        (part.name, part.pixels.max() if isinstance(part, Image) else part.texts)
        for part in record.parts
    ]


def test_parts_come_in_the_order_of_the_option_under_its_names():
    raw = GOOD | {"title": "seven", "thumb": _png(9)}
    config = DataConfig(parts=("title", "small=thumb", "words=captions", "title"))
    assert _shown(read_record(raw, config, "row 3")) == [
        ("title", ("seven",)),
        ("small", 9),
        ("words", ("a seven", "die Sieben")),
        ("title", ("seven",)),
    ]


def test_a_sequence_of_pictures_is_as_many_images():
    config = DataConfig(parts=("page",), attributes=())
    pixels = np.stack([np.full((8, 8, 1), value, np.uint8) for value in (1, 2, 3)])
    for pages in ([_png(1), _png(2), _png(3)], pixels):
        record = read_record({"page": pages}, config, "row 3")
        assert _shown(record) == [("page", 1), ("page", 2), ("page", 3)]
        assert record.part("page", 2).pixels.max() == 3
        assert record.part("page", 3) is None


def test_groups_are_read_one_after_the_other_and_what_is_empty_is_left_out():
    blocks = {
        "text": [b"one", b"", b"two", b" "],
        "image": [b"", _png(5), b"", _png(6)],
    }
    config = DataConfig(parts=("blocks",), attributes=())
    assert _shown(read_record({"blocks": blocks}, config, "row 3")) == [
        ("text", ("one",)),
        ("image", 5),
        ("text", ("two",)),
        ("image", 6),
    ]
    turns = {"question": ["which?", "even?"], "answer": ["seven", "no"]}
    record = read_record(
        {"turns": turns}, dataclasses.replace(config, parts=("turns",)), "row 3"
    )
    assert _shown(record) == [
        ("question", ("which?",)),
        ("answer", ("seven",)),
        ("question", ("even?",)),
        ("answer", ("no",)),
    ]
    assert record.part("answer", 1) == Text(("no",), "answer")


def test_a_path_leads_into_a_group():
    config = DataConfig(parts=("caption=captions/text",), attributes=())
    raw = {"captions": {"text": ["a seven", "die Sieben"], "id": [1, 2]}}
    record = read_record(raw, config, "row 3")
    assert _shown(record) == [("caption", ("a seven", "die Sieben"))]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"blocks": {"text": ["a", "b"], "image": [_png(1)]}}, "differ in number"),
        ({"blocks": {"text": ["", " "], "image": [b"", b""]}}, "has no part at all"),
        ({"blocks": {"text": [], "image": []}}, "has no part at all"),
        ({"blocks": [_png(1), b"a text"]}, "no sequence of speech units"),
    ],
)
def test_groups_that_cannot_be_read_are_refused_by_name(raw, words):
    config = DataConfig(parts=("blocks",), attributes=())
    with pytest.raises(DataError, match=f"row 3.*{words}") as error:
        read_record(raw, config, "row 3")
    _assert_one_sentence(error.value)


def test_a_record_is_described_in_its_order():
    record = Record(
        (Text(("before",)), Image(GREY), Speech((3, 1)), Text(("after", "behind"))),
        "row 3",
        {"label": 7},
    )
    lines = describe(record).splitlines()
    assert lines[:4] == [
        "key       row 3",
        "label     7",
        "text      before",
        "image     uint8 [8, 8, 1]",
    ]
    assert lines[-3:] == ["speech    3 1", "text      after", "        | behind"]


@pytest.mark.parametrize("shape", [(12, 10, 1), (3, 9, 1), (8, 8, 1)])
def test_resizing_gives_the_models_size(shape):
    image = np.full(shape, 200, np.uint8)
    record = read_record({**GOOD, "image": image}, DataConfig(resize=True), "row 3")
    np.testing.assert_array_equal(
        record.images[0].pixels, np.full((8, 8, 1), 200, np.uint8)
    )


def test_resizing_crops_the_centre():
    image = np.zeros((8, 24, 1), np.uint8)
    image[:, 8:16] = 255
    record = read_record({**GOOD, "image": image}, DataConfig(resize=True), "row 3")
    np.testing.assert_array_equal(
        record.images[0].pixels, np.full((8, 8, 1), 255, np.uint8)
    )


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
        {"image_line": 5},
        {"parts": ()},
        {"speech_units": -1},
        {"speech_tokens": -1},
    ],
)
def test_an_option_out_of_range_is_refused(change):
    with pytest.raises(DataError, match=f"data.{next(iter(change))}") as error:
        DataConfig(**change)
    _assert_one_sentence(error.value)


def _assert_one_sentence(error: DataError) -> None:
    text = str(error)
    assert text.endswith(".") and "\n" not in text and ". " not in text
