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
    TASK_IDS,
    TEXT,
    PartSizes,
    Piece,
    SpecialTokens,
    Stream,
    Task,
    TaskLayout,
    rows_of_task,
)

STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
SPECIAL = SpecialTokens()
SIZES = PartSizes(text_tokens=12, image_codes=64)
BEGIN = Piece.fixed("begin", SPECIAL.begin)
BEGIN_IMAGE = Piece.fixed("begin_image", SPECIAL.begin_image)
END_IMAGE = Piece.fixed("end_image", SPECIAL.end_image)


def task_marker(number: int) -> Piece:
    """Says in the row which task it is for."""
    return Piece.fixed("task", TASK_IDS[number])


def with_segment(layout: TaskLayout, name: str, **changes: object) -> TaskLayout:
    """The layout with some fields of one of its segments replaced."""
    segments = tuple(
        dataclasses.replace(segment, **changes) if segment.name == name else segment
        for segment in layout.segments
    )
    return dataclasses.replace(layout, segments=segments)


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
    captions = (text for record in train_records for text in record.texts)
    return TextTokenizer.train(captions, Vocabulary.of(digits))


@pytest.fixture(scope="session")
def text_to_image() -> TaskLayout:
    prompt = Piece("prompt", TEXT, part="text", predicted_by="nothing", droppable=True)
    image = Piece(
        *("image", IMAGE),
        part="image",
        written=True,
        predicted_by="itself",
        span="image",
    )
    pieces = (BEGIN, task_marker(3), prompt, BEGIN_IMAGE, image, END_IMAGE)
    task = Task("text_to_image", pieces, reads_whole_row=True)
    return rows_of_task(task, SIZES, STREAMS)


@pytest.fixture(scope="session")
def diffusion(text_to_image: TaskLayout) -> TaskLayout:
    return with_segment(text_to_image, "image", num_slots=16, continuous=True)


@pytest.fixture(scope="session")
def image_to_text() -> TaskLayout:
    image = Piece("image", IMAGE, part="image", span="image", predicted_by="nothing")
    caption = Piece("caption", num_slots=11, part="text", written=True)
    pieces = (BEGIN, task_marker(4), BEGIN_IMAGE, image, END_IMAGE, caption)
    task = Task("image_to_text", pieces, prefix="end_image")
    return rows_of_task(task, SIZES, STREAMS)


@pytest.fixture(scope="session")
def text_only() -> TaskLayout:
    text = Piece("text", num_slots=11, part="text", written=True)
    task = Task("text_only", (BEGIN, task_marker(5), text))
    return rows_of_task(task, SIZES, STREAMS)
