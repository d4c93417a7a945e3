"""TFDS builder of interleaved textbook sections, from a folder that a user unpacked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from unimod_jax.data.textbook.sections import is_held_out, read_sections


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builds `textbook`: key and parts, each a text or the bytes of a picture."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Texts and figures in reading order."}

    def __init__(self, *, sections: Path, **options: Any) -> None:
        """Takes the file of sections, beside what every builder takes."""
        self._sections = sections
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        # Pictures are bytes of files: TFDS decodes images in sequences at once.
        part = {"text": text(), "image": text()}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {"key": text(), "parts": tfds.features.Sequence(part)}
            ),
            homepage="https://openstax.org",
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # Nothing to download.
        return {
            "train": self._generate_examples(held_out=False),
            "test": self._generate_examples(held_out=True),
        }

    def _generate_examples(
        self, held_out: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (key, parts) in enumerate(read_sections(self._sections)):
            if is_held_out(key) == held_out:
                yield number, {"key": key, "parts": parts}
