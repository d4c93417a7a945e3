"""How often captions name the right digit, and drawn digits are the ones asked for.

Both need a data set whose captions name the digit of their label (`names_digits`).
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from unimod_jax.data import Record
from unimod_jax.data.handwritten_digits.wordings import DIGIT_WORDS, digit_in_caption
from unimod_jax.evaluation.digit_classifier import DigitClassifier
from unimod_jax.evaluation.sampler import Sampler

NUM_DIGITS = len(DIGIT_WORDS)


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Images with a text each: scans and their captions, or drawings and their prompts.

    Attributes:
      images: uint8 [n, height, width, channels].
      texts: the caption that was generated, or the prompt that was given.
      wanted: the digit that was right, int [n]; -1 where digits mean nothing.
      told: the digit that was read in the caption or drawing, int [n]; -1 for none.
    """

    images: np.ndarray
    texts: list[str]
    wanted: np.ndarray
    told: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Boolean [n]: whether each is right."""
        return self.wanted == self.told

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return float(np.mean(self.right))

    def per_digit(self) -> dict[str, float]:
        """Digit -> share of it that is right, for the digits that were wanted."""
        return {
            str(digit): float(np.mean(self.right[self.wanted == digit]))
            for digit in range(NUM_DIGITS)
            if (self.wanted == digit).any()
        }


def names_digits(records: Sequence[Record]) -> bool:
    """Whether every caption names exactly the digit that its record's label holds."""
    return all(
        label_of(record) is not None and digit_in_caption(text) == label_of(record)
        for record in records
        for text in record.texts
    )


def label_of(record: Record) -> int | None:
    """The class that a record is of; None where its data set has none."""
    label = record.attributes.get("label")
    return label if isinstance(label, int) else None


def judge_captions(
    sampler: Sampler, records: Sequence[Record], has_digits: bool
) -> Judged:
    """Captions held-out scans, and reads the digit back out of each caption."""
    images = [record.images[0].pixels for record in records]
    captions = sampler.caption(images)
    named = [digit_in_caption(caption) for caption in captions]
    return Judged(
        np.stack(images),
        captions,
        _integers([label_of(record) if has_digits else None for record in records]),
        _integers(named if has_digits else [None] * len(named)),
    )


def judge_drawings(
    sampler: Sampler,
    prompts: Sequence[str],
    classifier: DigitClassifier | None,
    seed: int,
) -> Judged:
    """Draws an image per prompt and has the classifier, if any, say what it shows."""
    images = sampler.draw(prompts, seed)
    unknown = _integers([None] * len(prompts))
    if classifier is None:
        return Judged(images, list(prompts), unknown, unknown)
    wanted = _integers([digit_in_caption(prompt) for prompt in prompts])
    return Judged(images, list(prompts), wanted, classifier.predict(images))


def digit_prompts(records: Sequence[Record], count: int) -> list[str]:
    """Prompts for all digits equally often, over the wordings of held-out captions."""
    wordings: dict[int, set[str]] = collections.defaultdict(set)
    for record in records:
        if (label := label_of(record)) is not None:
            wordings[label].update(record.texts)
    by_digit = [sorted(wordings[digit]) for digit in sorted(wordings)]
    prompts = []
    for index in range(count):
        texts = by_digit[index % len(by_digit)]
        prompts.append(texts[index // len(by_digit) % len(texts)])
    return prompts


def caption_prompts(records: Sequence[Record], count: int) -> list[str]:
    """Prompts for data sets without digits: the first captions of the records."""
    return [records[index % len(records)].texts[0] for index in range(count)]


def _integers(values: Sequence[int | None]) -> np.ndarray:
    return np.asarray([-1 if value is None else value for value in values], np.int64)
