"""Spoken digits as discrete units: a third modality that needs no download.

Synthetic voices, not recordings: a small formant synthesiser (`phonemes`, `voices`)
says the ten English digit words, and a small speech tokenizer (`units`) turns each
utterance into units of 40 ms with consecutive repeats removed. That is the form of the
speech of Mixture-of-Transformers (arXiv 2411.04996, section 3.3: 25 units a second, of
500 kinds, of real speech by a learned encoder); ours are 32 kinds of log-mel spectrum.
What a model learns here is the mechanics of a third modality, not speech recognition.

`synthesise` is the program that made `spoken_digits.npz`; `takes` reads that file, and
is all that the data set needs. Takes of the test split come from voices of their own.
"""

from unimod_jax.data.spoken_digits.takes import (
    LONGEST,
    NUM_UNITS,
    TAKES,
    spoken_units,
    take_of_scan,
)

__all__ = ["LONGEST", "NUM_UNITS", "TAKES", "spoken_units", "take_of_scan"]
