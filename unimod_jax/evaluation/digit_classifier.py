"""An independent judge of generated digits: a support vector machine on real scans.

It never sees a generated image before judging it, and its own accuracy on held-out
scans says how far its judgement can be trusted.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from unimod_jax.data import Record

_REGULARISATION = 10.0
"""Inverse regularisation C; 0.99 on the held-out digits, and flat around this value."""


@dataclasses.dataclass(frozen=True)
class DigitClassifier:
    """Tells which class an image shows.

    Attributes:
      machine: the fitted scikit-learn classifier.
    """

    machine: Any

    @classmethod
    def fit(cls, records: Sequence[Record]) -> "DigitClassifier":
        """Fits the classifier on labelled records, which must be real train scans."""
        from sklearn.svm import SVC

        labels = np.asarray([record.attributes["label"] for record in records])
        images = [record.images[0].pixels for record in records]
        return cls(SVC(C=_REGULARISATION).fit(_features(images), labels))

    def predict(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """The class of each image, int [len(images)]."""
        if not len(images):
            return np.zeros(0, np.int64)
        return self.machine.predict(_features(images))

    def held_out_accuracy(self, records: Sequence[Record]) -> float:
        """Share of labelled records, none of them fitted on, that are told right."""
        labels = np.asarray([record.attributes["label"] for record in records])
        told = self.predict([record.images[0].pixels for record in records])
        return float(np.mean(told == labels))


def _features(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Grey values in [0, 1], one row per image."""
    return np.asarray(images).reshape(len(images), -1) / 255.0
