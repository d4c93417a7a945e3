"""The digits data set, built once per session, and what stands on it."""

import dataclasses

import pytest

from unimod_jax.data import (
    DataConfig,
    SplitRecords,
    TextTokenizer,
    Vocabulary,
    open_split,
    prepare,
)
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    SegmentSpec,
    SpecialTokens,
    Stream,
    TaskLayout,
)

STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
SPECIAL = SpecialTokens()


def marker(name: str, token: int) -> SegmentSpec:
    """A fixed segment of one slot, on which nothing is trained."""
    return SegmentSpec(name, TEXT, 1, predicted_by="nothing", ids=(token,))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    config = DataConfig(directory=str(tmp_path_factory.mktemp("data")))
    prepare(config)
    return config


@pytest.fixture(scope="session")
def train_records(digits: DataConfig) -> SplitRecords:
    return open_split(digits, digits.train_split)


@pytest.fixture(scope="session")
def test_records(digits: DataConfig) -> SplitRecords:
    return open_split(digits, digits.test_split)


@pytest.fixture(scope="session")
def tokenizer(digits: DataConfig, train_records: SplitRecords) -> TextTokenizer:
    captions = (text for record in train_records for text in record.captions)
    return TextTokenizer.train(captions, Vocabulary.of(digits))


@pytest.fixture(scope="session")
def text_to_image() -> TaskLayout:
    image = SegmentSpec("image", IMAGE, 64, bidirectional=True, predicted_by="itself")
    return TaskLayout(
        "text_to_image",
        (
            marker("begin", SPECIAL.begin),
            marker("task", SPECIAL.text_to_image),
            SegmentSpec("prompt", TEXT, 12, predicted_by="nothing"),
            marker("begin_image", SPECIAL.begin_image),
            image,
            marker("end_image", SPECIAL.end_image),
        ),
        STREAMS,
        reads_whole_row=True,
    )


@pytest.fixture(scope="session")
def diffusion(text_to_image: TaskLayout) -> TaskLayout:
    image = SegmentSpec(
        "image", IMAGE, 16, bidirectional=True, predicted_by="itself", continuous=True
    )
    segments = tuple(
        image if segment.name == "image" else segment
        for segment in text_to_image.segments
    )
    return dataclasses.replace(text_to_image, segments=segments)


@pytest.fixture(scope="session")
def image_to_text() -> TaskLayout:
    return TaskLayout(
        "image_to_text",
        (
            marker("begin", SPECIAL.begin),
            marker("task", SPECIAL.image_to_text),
            marker("begin_image", SPECIAL.begin_image),
            SegmentSpec("image", IMAGE, 64, bidirectional=True, predicted_by="nothing"),
            marker("end_image", SPECIAL.end_image),
            SegmentSpec("caption", TEXT, 12),
        ),
        STREAMS,
        prefix_segment="end_image",
    )


@pytest.fixture(scope="session")
def text_only() -> TaskLayout:
    return TaskLayout(
        "text_only",
        (
            marker("begin", SPECIAL.begin),
            marker("task", SPECIAL.text_only),
            SegmentSpec("text", TEXT, 12),
        ),
        STREAMS,
    )
