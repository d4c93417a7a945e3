"""The judge of the digits: which digit a text, an image or an utterance is of.

Texts are read: the digit that they name. Images and utterances go to support vector
machines, one for each part of the records, fitted on real ones only.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from unimod_jax.data.handwritten_digits.wordings import digit_in_caption
from unimod_jax.data.judge import Verdict, Written
from unimod_jax.data.record_schema import Image, Part, Record, Speech, Text
from unimod_jax.data.spoken_digits import NUM_UNITS

_REGULARISATION = 10.0
"""Inverse regularisation C; 0.99 on the held-out digits, and flat around this value."""


class DigitJudge:
    """Judges what is written for labelled records; a `data.Judge`.

    A text is right if it names the label and no other digit, by word or numeral, where
    the record's own text does so; any other text, such as "yes", if it is one of the
    record's own.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        """Fits nothing yet.

        Args:
          records: real ones of the train split.
        """
        self._records = records
        self._machine = functools.cache(self._fitted)

    def __call__(self, record: Record, part: Part, written: Written) -> Verdict | None:
        """A verdict on what was written; None for a record without a label."""
        label = _label(record)
        if label is None:
            return None
        if not isinstance(part, Text):
            (told,) = self._machine(part.name).predict([_features(written)])
            return Verdict(str(label), str(told))
        assert isinstance(written, str)
        if all(digit_in_caption(text) == label for text in part.texts):
            named = digit_in_caption(written)
            return Verdict(str(label), "" if named is None else str(named))
        said = written.strip()
        return Verdict(said if said in part.texts else part.texts[0], said)

    def _fitted(self, name: str) -> Any:
        """The machine of the parts of a name; scikit-learn's classifier."""
        from sklearn.svm import SVC

        features, labels = [], []
        for record in self._records:
            part, label = record.part(name), _label(record)
            if label is not None and isinstance(part, Image | Speech):
                real = part.pixels if isinstance(part, Image) else part.units
                features.append(_features(real))
                labels.append(label)
        return SVC(C=_REGULARISATION).fit(np.stack(features), labels)


def _label(record: Record) -> int | None:
    label = record.attributes.get("label")
    return label if isinstance(label, int) else None


def _features(written: Written) -> np.ndarray:
    """Grey values in [0, 1] of an image; of units, how often each and each pair is."""
    if isinstance(written, np.ndarray):
        return written.reshape(-1) / 255.0
    assert not isinstance(written, str)
    alone, paired = np.zeros(NUM_UNITS), np.zeros((NUM_UNITS, NUM_UNITS))
    np.add.at(alone, list(written), 1)
    for pair in itertools.pairwise(written):
        paired[pair] += 1
    return np.concatenate([alone, paired.reshape(-1)])
