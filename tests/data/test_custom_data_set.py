"""A data set of another shape needs options, not code: RGB, 12 x 10, one caption."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import with_segment
from unimod_jax.data import (
    DataConfig,
    DataError,
    TextTokenizer,
    Vocabulary,
    fill,
    open_split,
    prepare,
)


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """A prepared data set of one-colour flags."""
    import tensorflow_datasets as tfds

    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}

    class Flags(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {
                "picture": tfds.features.Image(shape=(12, 10, 3)),
                "text": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description="One-colour flags.",
                features=tfds.features.FeaturesDict(features),
            )

        def _split_generators(self, dl_manager):
            return {"everything": self._generate_examples()}

        def _generate_examples(self):
            for place, (name, colour) in enumerate(colours.items()):
                png = io.BytesIO()
                Image.new("RGB", (10, 12), colour).save(png, format="png")
                yield place, {"picture": png.getvalue(), "text": f"a {name} flag"}

    directory = tmp_path_factory.mktemp("flags")
    builder = Flags(data_dir=str(directory), file_format="array_record")
    builder.download_and_prepare()
    return DataConfig(
        name="flags",
        directory=str(directory),
        parts=("image=picture", "text"),
        attributes=(),
        train_split="everything",
        image_channels=3,
        image_levels=256,
        resize=True,
    )


def test_it_is_read_with_options_alone(flags):
    assert prepare(flags).name == "1.2.0"
    records = open_split(flags, flags.train_split)
    captions = {record.texts: record for record in records}
    assert set(captions) == {(f"a {c} flag",) for c in ("red", "green", "blue")}
    red = captions[("a red flag",)]
    assert not red.attributes
    (image,) = red.images
    np.testing.assert_array_equal(image.pixels, np.full((8, 8, 3), (255, 0, 0)))


def test_it_fills_rows(flags, text_to_image):
    records = open_split(flags, "everything")
    tokenizer = TextTokenizer.train(
        (text for record in records for text in record.texts), Vocabulary.of(flags)
    )
    layout = with_segment(text_to_image, "image", num_slots=8 * 8 * 3)
    row = fill(records[0], layout, flags, tokenizer)
    assert len(row.tokens["image"]) == 192


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resize": False}, r"flags/everything is 12 x 10 pixels but data.image_size"),
        ({"image_channels": 1}, "has 3 channels but data.image_channels is 1"),
        ({"attributes": ("label",)}, "no feature 'label'"),
        ({"train_split": "train"}, r"no split 'train', only \['everything'\]"),
    ],
)
def test_a_wrong_option_fails_in_one_sentence(flags, change, words):
    config = dataclasses.replace(flags, **change)
    with pytest.raises(DataError, match=words) as error:
        open_split(config, config.train_split)
    assert "\n" not in str(error.value)
