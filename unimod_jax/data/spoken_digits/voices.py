"""Who says it: voices that differ in pitch, size, pace and breath, and how they sound.

A source-filter synthesiser. The vocal folds give a buzz (all harmonics of a pitch that
falls through the word), narrow passages give noise; both pass filters that change every
5 ms as the articulators glide from one phoneme's target to the next.

Suffixes: M samples of the waveform, R steps of 5 ms, F frequencies of a filter.
"""

import dataclasses

import numpy as np

from unimod_jax.data.spoken_digits.phonemes import PHONEMES, PRONUNCIATIONS, Phoneme

SAMPLE_RATE = 8000
"""Samples a second: telephone speech."""

STEP = 40
"""Samples between two states of the filters: 5 ms."""

BANDWIDTHS = (60.0, 90.0, 150.0, 250.0)
"""Hz of the formants, as usual for vowels (Klatt 1980)."""

FOURTH_FORMANT = 3500.0
"""Hz; it hardly moves in speech, so phonemes do not name it."""

PAUSE = Phoneme(45, (500, 1500, 2500))
"""Silence before and after a word, with the tract at rest."""

_WINDOW = 4 * STEP
_FFT = 256


@dataclasses.dataclass(frozen=True)
class Voice:
    """What stays the same when a speaker says different words.

    Attributes:
      pitch: Hz of the vocal folds in the middle of a word.
      tract: factor on all formants: above 1 for a shorter vocal tract.
      pace: factor on the speed of speaking.
      breath: amplitude of noise that sounds along with the voice.
    """

    pitch: float
    tract: float
    pace: float
    breath: float


def voice_of(number: int, seed: int) -> Voice:
    """The voice of a number: from 85 to 230 Hz, smaller speakers speak higher."""
    # RandomState: unlike default_rng, its streams are frozen for all NumPy versions.
    random = np.random.RandomState([seed, number])
    size = random.uniform(-1.0, 1.0)
    return Voice(
        pitch=140.0 * 2.0 ** (0.6 * size + random.uniform(-0.12, 0.12)),
        tract=1.06 + 0.08 * size + random.uniform(-0.03, 0.03),
        pace=random.uniform(0.85, 1.2),
        breath=random.uniform(0.01, 0.05),
    )


def say(digit: int, voice: Voice, random: np.random.RandomState) -> np.ndarray:
    """The waveform of a digit word, a little different every time.

    Args:
      digit: 0..9.
      voice: who speaks.
      random: draws the variation of this take and its noise.

    Returns:
      samples_M: float32, at most 1 in magnitude, SAMPLE_RATE a second.
    """
    voice = dataclasses.replace(
        voice,
        pitch=voice.pitch * random.uniform(0.93, 1.07),
        pace=voice.pace * random.uniform(0.92, 1.08),
    )
    phonemes = [PAUSE, *(PHONEMES[p] for p in PRONUNCIATIONS[digit].split()), PAUSE]
    tracks = _articulate(phonemes, voice, random)
    steps = len(tracks["voice"])
    frequencies_F = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    tract_RF = _tract_response(frequencies_F, tracks["formants"])
    passage_RF = np.exp(
        -0.5
        * ((frequencies_F - tracks["noise_centre"][:, None]) ** 2)
        / tracks["noise_width"][:, None] ** 2
    )
    buzz_M = _buzz(voice.pitch * np.linspace(1.12, 0.85, steps * STEP))
    breath_M = voice.breath * random.standard_normal(steps * STEP)
    hiss_M = random.standard_normal(steps * STEP)
    samples_M = _filtered(buzz_M + breath_M, tracks["voice"][:, None] * tract_RF)
    samples_M += _filtered(hiss_M, tracks["noise"][:, None] * passage_RF)
    samples_M += 1e-3 * random.standard_normal(samples_M.shape)
    return (0.9 * samples_M / np.abs(samples_M).max()).astype(np.float32)


def _articulate(
    phonemes: list[Phoneme], voice: Voice, random: np.random.RandomState
) -> dict[str, np.ndarray]:
    """Each attribute of the phonemes over time, float [R] (formants [R, 3]).

    Formants glide for 60 ms between targets; amplitudes, which must follow the burst of
    a plosive, for 15 ms. Durations vary by 12 % and targets by 3 %.
    """
    counts = [
        max(2, round(p.milliseconds / voice.pace * random.uniform(0.88, 1.12) / 5))
        for p in phonemes
    ]
    targets = np.array([p.formants for p in phonemes])
    targets = voice.tract * targets * random.uniform(0.97, 1.03, targets.shape)
    tracks = {"formants": _glide(np.repeat(targets, counts, axis=0), steps=12)}
    for name in ("voice", "noise"):
        values = np.array([getattr(p, name) for p in phonemes])
        values = values * random.uniform(0.85, 1.15, values.shape)
        tracks[name] = _glide(np.repeat(values, counts)[:, None], steps=3)[:, 0]
    for name in ("noise_centre", "noise_width"):
        tracks[name] = np.repeat([getattr(p, name) for p in phonemes], counts)
    return tracks


def _glide(track: np.ndarray, steps: int) -> np.ndarray:
    """Smooths each column [R, ...] with a Hann window of about `steps` steps."""
    window = np.hanning(steps + 2)[1:-1]
    window /= window.sum()
    before, after = (steps - 1) // 2, steps // 2
    padded = np.pad(track, ((before, after), (0, 0)), mode="edge")
    columns = [np.convolve(column, window, mode="valid") for column in padded.T]
    return np.stack(columns, axis=1)


def _tract_response(frequencies_F: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Resonances in cascade: a pole pair at each formant, gain 1 at 0 Hz.

    Returns:
      complex [R, F].
    """
    fourth = np.full((len(formants), 1), FOURTH_FORMANT)
    centres = np.concatenate([formants, fourth], axis=1)
    poles = -0.5 * np.array(BANDWIDTHS) + 1j * centres
    at = 1j * frequencies_F[None, :, None]
    poles = poles[:, None, :]
    return np.prod(np.abs(poles) ** 2 / ((at - poles) * (at - poles.conj())), axis=-1)


def _buzz(pitch_M: np.ndarray) -> np.ndarray:
    """All harmonics below half the sample rate, falling by 6 dB an octave [M]."""
    phase_M = 2 * np.pi * np.cumsum(pitch_M) / SAMPLE_RATE
    harmonics = np.arange(1, int(SAMPLE_RATE / 2 / pitch_M.max()) + 1)
    return np.cos(phase_M[:, None] * harmonics) @ (1 / harmonics)


def _filtered(samples_M: np.ndarray, response_RF: np.ndarray) -> np.ndarray:
    """Filters overlapping windows, one per step, and adds them up [M + FFT]."""
    window = np.hanning(_WINDOW + 1)[:-1] * 2 * STEP / _WINDOW
    padded = np.pad(samples_M, (_WINDOW // 2, _WINDOW))
    total = np.zeros(len(samples_M) + _FFT)
    for step, response_F in enumerate(response_RF):
        start = step * STEP
        piece = padded[start : start + _WINDOW] * window
        spectrum = np.fft.rfft(piece, _FFT) * response_F
        total[start : start + _FFT] += np.fft.irfft(spectrum, _FFT)
    return total
