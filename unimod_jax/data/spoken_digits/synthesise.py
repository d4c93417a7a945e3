"""Makes `spoken_digits.npz`: every digit, by every voice, several times, as units.

    python -m unimod_jax.data.spoken_digits.synthesise            # writes the file
    python -m unimod_jax.data.spoken_digits.synthesise --wav DIR  # only to listen

Seeds are fixed, so it makes the same file again on the same machine; elsewhere k-means
may round differently, so the file that is kept is the data, not what this would make.
"""

import argparse
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unimod_jax.data.spoken_digits.takes import FILE, NUM_UNITS, TAKES, VOICES
from unimod_jax.data.spoken_digits.units import log_mel, nearest_units, without_repeats
from unimod_jax.data.spoken_digits.voices import SAMPLE_RATE, say, voice_of

SEED = 0

CENTRE_DECIMALS = 3
"""Centres are rounded, so that other rounding in k-means seldom shows."""


def utterance(digit: int, take: int, split: str) -> tuple[int, np.ndarray]:
    """Says one take; the voices of a split take turns.

    Returns:
      The number of the voice, and samples float32 [M].
    """
    voices = VOICES[split]
    voice = voices[take % len(voices)]
    random = np.random.RandomState([SEED, digit, take, voice])
    return voice, say(digit, voice_of(voice, SEED), random)


def all_takes() -> Iterator[tuple[int, int, str]]:
    """Digit, take and split of every utterance, in the order of the file."""
    for split, takes in TAKES.items():
        for digit in range(10):
            for take in range(takes):
                yield digit, take, split


def unit_centres(features_RD: np.ndarray) -> np.ndarray:
    """Centres of the units by k-means, from the quietest to the loudest.

    Args:
      features_RD: log-mel frames of the training voices.

    Returns:
      centres_VD: float32, NUM_UNITS of them.
    """
    from sklearn.cluster import KMeans

    found = KMeans(NUM_UNITS, random_state=SEED).fit(features_RD)
    centres_VD = found.cluster_centers_
    centres_VD = centres_VD[np.argsort(centres_VD.sum(axis=1))]
    return centres_VD.round(CENTRE_DECIMALS).astype(np.float32)


def synthesise() -> dict[str, np.ndarray]:
    """The arrays of the file; `takes` says what they are."""
    names = list(all_takes())
    voices, features = [], []
    for digit, take, split in names:
        voice, samples_M = utterance(digit, take, split)
        voices.append(voice)
        features.append(log_mel(samples_M))
    centres_VD = unit_centres(np.concatenate(features[: 10 * TAKES["train"]]))
    sequences = [without_repeats(nearest_units(f, centres_VD)) for f in features]
    lengths = [len(units) for units in sequences]
    padded = np.full((len(sequences), max(lengths)), -1, np.int8)
    for row, units in zip(padded, sequences, strict=True):
        row[: len(units)] = units
    return {
        "units": padded,
        "lengths": np.array(lengths, np.int8),
        "digits": np.array([digit for digit, *_ in names], np.int8),
        "voices": np.array(voices, np.int8),
        "centres": centres_VD,
    }


def write_wav(path: Path, samples_M: np.ndarray) -> None:
    """Writes float samples in -1..1 as 16-bit mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples_M * 32767).astype("<i2").tobytes())


def main() -> None:
    """Writes the file of units, or, with --wav, the first takes of every voice."""
    parser = argparse.ArgumentParser(description="Says the digits and keeps the units.")
    parser.add_argument(
        "--wav", type=Path, metavar="DIR", help="write waveforms there instead"
    )
    folder: Path | None = parser.parse_args().wav
    if folder is None:
        arrays: dict[str, Any] = synthesise()
        np.savez_compressed(FILE, **arrays)
        print(f"wrote {FILE} ({FILE.stat().st_size} bytes)")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for digit, take, split in all_takes():
        if take < len(VOICES[split]):
            voice, samples_M = utterance(digit, take, split)
            write_wav(folder / f"{digit}-{split}-voice{voice:02d}.wav", samples_M)


if __name__ == "__main__":
    main()
