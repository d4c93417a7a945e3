"""The built-in data set is what its README says."""

import collections

import numpy as np
import pytest
from sklearn.datasets import load_digits

from unimod_jax.data import codes_to_pixels, pixels_to_codes
from unimod_jax.data.handwritten_digits.split import held_out_scans
from unimod_jax.data.handwritten_digits.wordings import (
    DIGIT_WORDS,
    WORDINGS,
    digit_in_caption,
)


def test_the_split_is_fixed_disjoint_and_stratified(train_records, test_records):
    train = {record.key for record in train_records}
    test = {record.key for record in test_records}
    assert (len(train), len(test), len(train & test)) == (1437, 360, 0)
    counts = collections.Counter(record.label for record in test_records)
    assert sorted(counts.values()) == [35, 35, 36, 36, 36, 36, 36, 36, 37, 37]


def test_the_split_never_changes():
    held_out = sorted(held_out_scans([int(label) for label in load_digits().target]))
    assert held_out[:8] == [10, 16, 28, 31, 34, 35, 38, 39]


def test_every_scan_survives_storing_and_coding(digits, train_records, test_records):
    levels = load_digits().images.astype(np.int32)
    for record in [*train_records, *test_records]:
        scan = int(record.key.removeprefix("scan-"))
        codes = pixels_to_codes(record.image, digits)
        np.testing.assert_array_equal(codes, levels[scan].reshape(-1))
        np.testing.assert_array_equal(codes_to_pixels(codes, digits), record.image)


def test_every_caption_names_its_digit(train_records, test_records):
    for record in [*train_records, *test_records]:
        assert len(set(record.captions)) == 4
        assert {digit_in_caption(text) for text in record.captions} == {record.label}


def test_every_wording_and_digit_is_used(train_records):
    used = {text for record in train_records for text in record.captions}
    assert used == {
        wording.format(word=word, numeral=digit)
        for wording in WORDINGS
        for digit, word in enumerate(DIGIT_WORDS)
    }


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
