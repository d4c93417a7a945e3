"""The built-in data set is what its README says."""

import collections
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from unimod_jax.data import Text, codes_to_pixels, open_split, pixels_to_codes
from unimod_jax.data.handwritten_digits.split import held_out_scans
from unimod_jax.data.handwritten_digits.wordings import (
    DIGIT_WORDS,
    WORDINGS,
    digit_in_caption,
    turns_about,
)
from unimod_jax.data.spoken_digits import LONGEST, TAKES, spoken_units, take_of_scan


def test_the_split_is_fixed_disjoint_and_stratified(train_records, test_records):
    train = {record.key for record in train_records}
    test = {record.key for record in test_records}
    assert (len(train), len(test), len(train & test)) == (1437, 360, 0)
    counts = collections.Counter(record.attributes["label"] for record in test_records)
    assert sorted(counts.values()) == [35, 35, 36, 36, 36, 36, 36, 36, 37, 37]


def test_the_split_never_changes():
    held_out = sorted(held_out_scans([int(label) for label in load_digits().target]))
    assert held_out[:8] == [10, 16, 28, 31, 34, 35, 38, 39]


def test_every_scan_survives_storing_and_coding(digits, train_records, test_records):
    levels = load_digits().images.astype(np.int32)
    for record in [*train_records, *test_records]:
        scan = int(record.key.removeprefix("scan-"))
        codes = pixels_to_codes(record.images[0].pixels, digits)
        np.testing.assert_array_equal(codes, levels[scan].reshape(-1))
        np.testing.assert_array_equal(
            codes_to_pixels(codes, digits), record.images[0].pixels
        )


def test_every_caption_names_its_digit(train_records, test_records):
    for record in [*train_records, *test_records]:
        assert len(record.parts) == 2 and len(set(record.texts)) == 4
        named = {digit_in_caption(text) for text in record.texts}
        assert named == {record.attributes["label"]}


def test_every_wording_and_digit_is_used(train_records):
    used = {text for record in train_records for text in record.texts}
    assert used == {
        wording.format(word=word, numeral=digit)
        for wording in WORDINGS
        for digit, word in enumerate(DIGIT_WORDS)
    }


@pytest.mark.parametrize(("split", "scans"), [("train", 1437), ("test", 360)])
def test_every_scan_is_spoken_by_a_voice_of_its_own_split(digits, split, scans):
    folder = Path(digits.directory, "handwritten_digits", "1.2.0")
    rows = tfds.builder_from_directory(folder).as_data_source(split)
    assert len(rows) == scans
    for row in rows:
        scan = int(row["key"].removeprefix(b"scan-"))
        expected = spoken_units(int(row["label"]), take_of_scan(scan, split), split)
        assert row["speech"].dtype == np.int32
        assert row["speech"].ndim == 1 and len(row["speech"]) <= LONGEST
        assert tuple(row["speech"].tolist()) == expected


def test_every_scan_has_its_negative_and_turns_about_it(digits):
    config = dataclasses.replace(digits, parts=("negative", "turns"))
    for record, plain in zip(
        open_split(config, "test[:30]"), open_split(digits, "test[:30]"), strict=True
    ):
        (negative,) = record.images
        levels = pixels_to_codes(plain.images[0].pixels, digits)
        np.testing.assert_array_equal(
            pixels_to_codes(negative.pixels, digits), 16 - levels
        )
        turns = turns_about(plain.attributes["label"])
        assert len(record.texts) == 2 * len(turns)
        for number, (question, answer) in enumerate(turns):
            assert record.part("question", number) == Text((question,), "question")
            assert record.part("answer", number) == Text((answer,), "answer")


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_take_goes_with_some_scan(split):
    taken = {take_of_scan(scan, split) for scan in range(1797)}
    assert taken == set(range(TAKES[split]))


def test_the_take_of_a_scan_never_changes():
    assert [take_of_scan(scan, "train") for scan in range(4)] == [65, 79, 70, 27]


@pytest.mark.parametrize(
    ("text", "digit"),
    [
        ("A handwritten Seven.", 7),
        ("the digit 0", 0),
        ("seven (7)", 7),
        ("seven or 8", None),
        ("seventy", None),
        ("77", None),
        ("", None),
        ("a small scan", None),
    ],
)
def test_a_caption_names_a_digit_only_if_it_names_one(text, digit):
    assert digit_in_caption(text) == digit
