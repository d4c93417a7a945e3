"""TFDS builder of the UCI handwritten digits that scikit-learn carries, with captions.

Nothing is downloaded. Images are stored as PNG; grey level k of 0..16 becomes the pixel
round(k * 255 / 16), from which `image_codec` gets k back exactly. Beside its captions a
scan has speech, the units of a synthetic voice that says its digit (`spoken_digits`),
turns of questions and answers about it, and its negative: the same in another style.
"""

import io
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from unimod_jax.data.handwritten_digits.split import held_out_scans
from unimod_jax.data.handwritten_digits.wordings import (
    DIGIT_WORDS,
    captions_of,
    turns_about,
)
from unimod_jax.data.image_codec import MAX_PIXEL, levels_to_pixels
from unimod_jax.data.spoken_digits import spoken_units, take_of_scan

GREY_LEVELS = 17
"""Each pixel counts the inked dots, 0..16, of a 4 x 4 block of the original scan."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builds `handwritten_digits`: see `_info` for what a scan comes with."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar = {
        "1.2.0": "Turns of questions and answers, and the negative of each scan.",
        "1.1.0": "Speech: the digit of each scan, said by a synthetic voice, as units.",
        "1.0.0": "1,437 train and 360 test scans, four captions each.",
    }

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                "negative": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                "captions": tfds.features.Sequence(tfds.features.Text()),
                "turns": tfds.features.Sequence(
                    {
                        "question": tfds.features.Text(),
                        "answer": tfds.features.Text(),
                    }
                ),
                "speech": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                "label": tfds.features.ClassLabel(names=list(DIGIT_WORDS)),
                "key": tfds.features.Text(),
            }
        )
        return self.dataset_info_from_configs(
            features=features,
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # Nothing to download.
        from sklearn.datasets import load_digits

        flat, target = load_digits(return_X_y=True)
        images = np.asarray(flat).reshape(-1, 8, 8)
        labels = [int(label) for label in target]
        held_out = held_out_scans(labels)
        train = [scan for scan in range(len(labels)) if scan not in held_out]
        return {
            "train": self._generate_examples(images, labels, train, "train"),
            "test": self._generate_examples(images, labels, sorted(held_out), "test"),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: list[int], chosen: list[int], split: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for scan in chosen:
            units = spoken_units(labels[scan], take_of_scan(scan, split), split)
            pixels = levels_to_pixels(images[scan], GREY_LEVELS)
            yield (
                scan,
                {
                    "image": _png(pixels),
                    "negative": _png(MAX_PIXEL - pixels),
                    "captions": list(captions_of(labels[scan], scan)),
                    "turns": [
                        {"question": question, "answer": answer}
                        for question, answer in turns_about(labels[scan])
                    ],
                    "speech": np.array(units, np.int32),
                    "label": labels[scan],
                    "key": f"scan-{scan:04d}",
                },
            )


def _png(pixels: np.ndarray) -> bytes:
    """PNG bytes of a grey image; TFDS itself would need TensorFlow to encode it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()
