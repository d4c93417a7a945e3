"""The spoken digits can be heard, and are what the synthesiser says."""

import collections
import itertools
import wave

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from unimod_jax.data import DataError
from unimod_jax.data.spoken_digits import LONGEST, NUM_UNITS, TAKES, spoken_units
from unimod_jax.data.spoken_digits.synthesise import (
    all_takes,
    unit_centres,
    utterance,
    write_wav,
)
from unimod_jax.data.spoken_digits.takes import FILE, VOICES
from unimod_jax.data.spoken_digits.units import (
    HOP,
    MEL_BANDS,
    WINDOW,
    log_mel,
    nearest_units,
    without_repeats,
)
from unimod_jax.data.spoken_digits.voices import SAMPLE_RATE, say, voice_of


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


def _unit_and_pair_counts(units: tuple[int, ...]) -> np.ndarray:
    counts = np.zeros(NUM_UNITS + NUM_UNITS**2)
    np.add.at(counts, np.array(units), 1)
    pairs = NUM_UNITS + NUM_UNITS * np.array(units[:-1]) + np.array(units[1:])
    np.add.at(counts, pairs, 1)
    return counts


def test_digits_can_be_heard_from_the_units_of_voices_not_heard_before():
    counts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    digits: dict[str, list[int]] = {"train": [], "test": []}
    for digit, take, split in all_takes():
        counts[split].append(_unit_and_pair_counts(spoken_units(digit, take, split)))
        digits[split].append(digit)
    listener = LogisticRegression(max_iter=500).fit(counts["train"], digits["train"])
    assert listener.score(counts["test"], digits["test"]) >= 0.95


def test_no_voice_speaks_in_both_splits(stored):
    train = 10 * TAKES["train"]
    heard, unheard = set(stored["voices"][:train]), set(stored["voices"][train:])
    assert heard == set(VOICES["train"])
    assert unheard == set(VOICES["test"])
    assert not heard & unheard


def test_the_file_is_small_and_has_the_stated_shape(stored):
    assert FILE.stat().st_size < 20_000
    utterances = 10 * (TAKES["train"] + TAKES["test"])
    assert stored["units"].shape == (utterances, LONGEST)
    assert stored["lengths"].max() == LONGEST
    assert stored["centres"].shape == (NUM_UNITS, MEL_BANDS)
    digits = [digit for digit, _, _ in all_takes()]
    np.testing.assert_array_equal(stored["digits"], digits)
    padding = np.arange(LONGEST) >= stored["lengths"][:, None]
    np.testing.assert_array_equal(stored["units"] == -1, padding)


def test_every_unit_is_used_and_none_twice_in_a_row():
    used = collections.Counter()
    for digit, take, split in all_takes():
        units = spoken_units(digit, take, split)
        assert all(type(unit) is int for unit in units)
        assert all(one != next_one for one, next_one in itertools.pairwise(units))
        used.update(units)
    assert sorted(used) == list(range(NUM_UNITS))


def test_takes_of_a_digit_differ_between_and_within_voices():
    voices = len(VOICES["train"])
    for digit in range(10):
        of_one_voice = {spoken_units(digit, k * voices, "train") for k in range(4)}
        first_takes = {spoken_units(digit, k, "train") for k in range(voices)}
        assert len(of_one_voice) >= 2
        assert len(first_takes) >= voices // 3


@pytest.mark.parametrize(("split", "take"), [("train", 5), ("test", 17)])
def test_the_synthesiser_still_says_what_is_in_the_file(stored, split, take):
    # Rounding differs between machines: a frame halfway between two units may change.
    same = total = 0
    for digit in range(10):
        _, samples = utterance(digit, take, split)
        frames = nearest_units(log_mel(samples), stored["centres"])
        kept = spoken_units(digit, take, split)
        same += _longest_common(without_repeats(frames), kept)
        total += len(kept)
    assert same >= 0.95 * total


def _longest_common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Length of the longest common subsequence."""
    best = [0] * (len(second) + 1)
    for one in first:
        before = list(best)
        for place, other in enumerate(second):
            best[place + 1] = (
                before[place] + 1
                if one == other
                else max(before[place + 1], best[place])
            )
    return best[-1]


def test_a_take_is_the_same_every_time_it_is_synthesised():
    np.testing.assert_array_equal(
        utterance(7, 3, "test")[1], utterance(7, 3, "test")[1]
    )


def test_a_vowel_has_its_formants_where_the_phoneme_says():
    voice = voice_of(0, seed=0)
    samples = say(2, voice, np.random.RandomState(0))  # Ends in "uw": 300 and 870 Hz.
    vowel = samples[-2400:-1376].astype(np.float64)
    power = np.abs(np.fft.rfft(vowel * np.hanning(1024))) ** 2
    frequencies = np.fft.rfftfreq(1024, 1 / SAMPLE_RATE)

    def band(low, high):
        return power[(low <= frequencies) & (frequencies < high)].mean()

    assert band(200, 400) > 10 * band(500, 700)
    assert band(750, 1000) > 10 * band(1300, 1900)


def test_a_tone_is_loudest_in_the_mel_band_around_it():
    time = np.arange(4 * SAMPLE_RATE // 10) / SAMPLE_RATE
    centres = 700 * (10 ** (np.linspace(0, 2146.06, 22)[1:-1] / 2595) - 1)
    for band in (3, 10, 18):
        features = log_mel(np.sin(2 * np.pi * centres[band] * time))
        assert features.shape == (1 + (len(time) - WINDOW) // HOP, MEL_BANDS)
        assert (features.argmax(axis=1) == band).all()
        assert features.max() == 0


def test_units_do_not_depend_on_loudness(stored):
    _, samples = utterance(3, 0, "train")
    loud = nearest_units(log_mel(samples), stored["centres"])
    quiet = nearest_units(log_mel(samples * 0.01), stored["centres"])
    np.testing.assert_array_equal(loud, quiet)


def test_a_frame_becomes_its_nearest_centre_and_repeats_are_removed():
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    features = np.array([[1.0, 0.5], [0.0, 0.0], [3.0, 0.0], [0.0, 9.0], [0.1, 0.2]])
    units = nearest_units(features, centres)
    np.testing.assert_array_equal(units, [0, 0, 1, 2, 0])
    assert without_repeats(units) == (0, 1, 2, 0)


def test_centres_run_from_quiet_to_loud():
    random = np.random.RandomState(0)
    loudness = np.repeat(np.arange(NUM_UNITS), 5)[random.permutation(5 * NUM_UNITS)]
    centres = unit_centres(np.stack([loudness, loudness], axis=1).astype(np.float64))
    assert centres.dtype == np.float32
    np.testing.assert_allclose(centres[:, 0], np.arange(NUM_UNITS), atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((3, 0, "valid"), r"no split 'valid', only \['test', 'train'\]"),
        ((10, 0, "test"), r"no take 0 of digit 10 .* digits are 0\.\.9"),
        ((3, 32, "test"), r"no take 32 of digit 3 in split 'test'.* takes 0\.\.31"),
        ((3, -1, "train"), r"no take -1"),
    ],
)
def test_what_nobody_said_is_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        spoken_units(*arguments)


def test_a_waveform_can_be_listened_to(tmp_path):
    _, samples = utterance(6, 0, "train")
    assert samples.dtype == np.float32 and np.abs(samples).max() <= 1
    write_wav(tmp_path / "six.wav", samples)
    with wave.open(str(tmp_path / "six.wav")) as file:
        assert file.getframerate() == SAMPLE_RATE
        assert file.getnframes() == len(samples)
        written = np.frombuffer(file.readframes(len(samples)), "<i2")
    np.testing.assert_allclose(written / 32767, samples, atol=1 / 32767)
