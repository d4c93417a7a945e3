"""What judges say, and which records they are asked about; no model is needed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from unimod_jax.data import (
    DataConfig,
    DataError,
    Image,
    Judge,
    Record,
    Text,
    Verdict,
    open_judge,
    open_split,
    prepare,
)
from unimod_jax.evaluation.judged_rows import (
    JudgedPiece,
    evenly_wanted,
    judge_accuracy,
    judged,
    write_rows,
)
from unimod_jax.layout import IMAGE, TEXT, SegmentSpec, Stream, TaskLayout

ALL_PARTS = ("image", "negative", "text=captions", "speech", "turns")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DataConfig:
    directory = str(tmp_path_factory.mktemp("data"))
    config = DataConfig(
        directory=directory, parts=ALL_PARTS, speech_units=32, speech_tokens=20
    )
    prepare(config)
    return config


@pytest.fixture(scope="module")
def judge(config: DataConfig) -> Judge:
    made = open_judge(config)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def records(config: DataConfig) -> list[Record]:
    return open_split(config, "test")[:]


def test_the_judge_of_the_digits_is_right_on_real_records(judge, records):
    found = judge_accuracy(judge, records)
    assert found.keys() == {
        "image",
        "negative",
        "text",
        "speech",
        "question",
        "answer",
    }
    assert min(found.values()) >= 0.97
    assert found["text"] == found["question"] == found["answer"] == 1.0


@pytest.mark.parametrize(
    ("written", "told"),
    [("a handwritten seven", "7"), ("seven (7)", "7"), ("6 or 7", ""), ("", "")],
)
def test_a_caption_is_right_if_it_names_its_digit_and_no_other(
    judge, records, written: str, told: str
):
    seven = next(record for record in records if record.attributes["label"] == 7)
    verdict = judge(seven, seven.part("text"), written)
    assert verdict == Verdict("7", told)
    assert verdict.right == (told == "7")


def test_an_answer_is_right_if_it_is_the_records_own(judge, records):
    seven = next(record for record in records if record.attributes["label"] == 7)
    is_even = seven.part("answer", 1)
    assert is_even.texts == ("no",)
    assert judge(seven, is_even, " no").right
    assert judge(seven, is_even, "yes") == Verdict("no", "yes")


def test_records_without_a_label_are_not_judged(judge, records):
    nameless = dataclasses.replace(records[0], attributes={})
    assert judge(nameless, nameless.part("image"), np.zeros((8, 8, 1))) is None


def colour_of(record: Record, part, written) -> Verdict | None:
    """A judge of one's own: the text has to be the record's colour."""
    colour = record.attributes.get("colour")
    return Verdict(str(colour), written) if colour else None


def make_colours(records) -> Judge:
    return colour_of


def record_of(colour: str, key: int) -> Record:
    image = Image(np.full((8, 8, 1), key, np.uint8))
    return Record((image, Text((colour,))), str(key), {"colour": colour})


COLOURS = [record_of(x, i) for i, x in enumerate(["red", "blue", "red", "red"])]
DESCRIBING = TaskLayout(
    "describe",
    (
        SegmentSpec("picture", IMAGE, 64, part="image"),
        SegmentSpec("colour", TEXT, 4, part="text", written=True),
    ),
    (Stream.of(IMAGE), Stream.of(TEXT)),
)


class Copier:
    """A sampler that says "red" whatever it is shown."""

    def write(self, task: str, given, seed: int):
        assert task == "describe" and all(set(row) == {"picture"} for row in given)
        return [{"colour": "red"} for _ in given]


def test_what_is_wanted_is_asked_for_equally_often():
    chosen = evenly_wanted(COLOURS, DESCRIBING, colour_of, 5)
    assert [record.key for record in chosen] == ["1", "0", "1", "2", "1"]
    unjudged = evenly_wanted(COLOURS, DESCRIBING, None, 5)
    assert [record.key for record in unjudged] == ["0", "1", "2", "3", "0"]
    assert evenly_wanted([], DESCRIBING, None, 5) == []


def test_rows_are_written_for_records_and_judged_beside_them():
    mute = dataclasses.replace(COLOURS[0], parts=COLOURS[0].parts[:1])
    (piece,) = write_rows(Copier(), DESCRIBING, [*COLOURS, mute], colour_of, seed=0)
    assert piece.name == "describe/colour" and piece.kind == "caption"
    assert [verdict.right for verdict in piece.verdicts] == [True, False, True, True]
    assert piece.accuracy == 0.75
    assert piece.per_wanted() == {"blue": 0.0, "red": 1.0}
    (shown,) = write_rows(Copier(), DESCRIBING, COLOURS, None, seed=0)
    assert shown.accuracy is None and shown.per_wanted() == {}


@pytest.mark.parametrize(
    ("modality", "shown", "kind"),
    [
        (TEXT, {"a": Image(np.zeros((8, 8, 1))), "b": "?"}, "caption"),
        (TEXT, {"a": (3, 4)}, "transcription"),
        (TEXT, {"a": "?"}, "text"),
        (IMAGE, {"a": "?"}, "generation"),
        ("speech", {"a": "?"}, "speech"),
    ],
)
def test_a_piece_has_the_kind_of_what_is_written_given_what(modality, shown, kind):
    piece = JudgedPiece("a", "b", modality, [shown], [""], [Text(("x",))], [None])
    assert piece.kind == kind


def test_unjudged_records_do_not_count():
    piece = judged(
        colour_of,
        [COLOURS[0], dataclasses.replace(COLOURS[1], attributes={})],
        task="a",
        piece="b",
        modality=TEXT,
        shown=[{}, {}],
        written=["red", "red"],
        real=[Text(("red",)), Text(("blue",))],
    )
    assert piece.accuracy == 1.0 and piece.by_wanted() == {"red": [0]}


def test_a_data_set_brings_its_judge_from_a_module_or_a_file(
    config: DataConfig, tmp_path: Path
):
    other = dataclasses.replace(config, judge=f"{__name__}:make_colours")
    assert open_judge(other) is colour_of
    file = tmp_path / "judges.py"
    file.write_text("def make(records):\n    return lambda *_: len(records)\n")
    mine = open_judge(dataclasses.replace(config, judge=f"{file}:make"))
    assert mine is not None and mine(None, None, None) == 1437
    unknown = dataclasses.replace(config, name="pictures")
    assert open_judge(unknown) is None


@pytest.mark.parametrize("name", ["nowhere:make", "json:make", "no_such.py:make", "x"])
def test_a_judge_that_cannot_be_imported_is_refused(config: DataConfig, name: str):
    with pytest.raises(DataError, match=rf"data.judge '{name}' cannot be imported"):
        open_judge(dataclasses.replace(config, judge=name))
