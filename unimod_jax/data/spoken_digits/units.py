"""A small speech tokenizer: a waveform becomes a short sequence of discrete units.

Every 40 ms (25 a second, as in Mixture-of-Transformers, arXiv 2411.04996, section 3.3)
the log-mel spectrum of the sound is replaced by the number of its nearest centre, and
consecutive repeats are removed. The centres are found by k-means on training voices.

Suffixes: M samples, R frames of 40 ms, F frequencies, D mel bands, V units.
"""

import itertools

import numpy as np

from unimod_jax.data.spoken_digits.voices import SAMPLE_RATE

HOP = SAMPLE_RATE * 40 // 1000
"""Samples between two frames: 40 ms."""

WINDOW = 512
"""Samples that a frame hears: 64 ms, several periods of the deepest voice."""

MEL_BANDS = 20

FLOOR = 1e-4
"""Band energy, relative to the loudest one of the utterance, below which is silence."""


def log_mel(samples_M: np.ndarray) -> np.ndarray:
    """Log-mel spectra of a waveform, whatever its loudness.

    Returns:
      features_RD: float64, 0 for the loudest band of the utterance and log10(FLOOR)
      for silence.
    """
    frames = 1 + (len(samples_M) - WINDOW) // HOP
    starts = HOP * np.arange(frames)[:, None]
    frames_RM = samples_M.astype(np.float64)[starts + np.arange(WINDOW)]
    power_RF = np.abs(np.fft.rfft(frames_RM * np.hanning(WINDOW), axis=1)) ** 2
    energy_RD = power_RF @ _mel_filters().T
    return np.log10(np.maximum(energy_RD / energy_RD.max(), FLOOR))


def nearest_units(features_RD: np.ndarray, centres_VD: np.ndarray) -> np.ndarray:
    """The unit of each frame, int64 [R]: the centre at the least distance."""
    apart = features_RD[:, None, :] - centres_VD[None, :, :]
    return (apart**2).sum(axis=-1).argmin(axis=-1)


def without_repeats(units_R: np.ndarray) -> tuple[int, ...]:
    """The units with consecutive repeats removed, so a held vowel is one unit."""
    return tuple(int(unit) for unit, _ in itertools.groupby(units_R))


def _mel_filters() -> np.ndarray:
    """Triangles evenly spaced on the mel scale, 2595 log10(1 + f / 700) [D, F]."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, MEL_BANDS + 2) / 2595) - 1)
    frequencies_F = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)
    low, centre, high = (corners[i : i + MEL_BANDS, None] for i in range(3))
    rising = (frequencies_F - low) / (centre - low)
    falling = (high - frequencies_F) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling))
