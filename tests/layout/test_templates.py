"""Templates say which pieces a row has; layouts carry the ids of their markers."""

import dataclasses

import pytest

from unimod_jax.layout import (
    ABSENT,
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedLayout,
    Piece,
    SegmentSpec,
    SpecialTokens,
    Stream,
    TaskLayout,
    causal_templates,
    masked_templates,
)

STREAMS = (Stream.of(TEXT), Stream.of(IMAGE, SPEECH))
NATIVE = SpecialTokens()


def ids(pieces):
    return [(piece.name, *piece.ids) for piece in pieces]


def test_native_templates_are_the_rows_of_the_papers():
    causal, masked = causal_templates(NATIVE), masked_templates(NATIVE)
    image = [("begin_image", 3), ("image",), ("end_image", 4)]
    assert ids(causal.text_to_image) == [("begin", 1), ("prompt",), *image]
    assert ids(causal.image_to_text) == [("begin", 1), *image, ("caption",)]
    assert ids(causal.text_only) == [("begin", 1), ("text",)]
    prompt = [("begin", 1), ("prompt",), ("end", 2)]
    assert ids(masked.text_to_image) == [("task", 12), *prompt, *image]
    caption = [("begin", 1), ("caption",)]
    assert ids(masked.image_to_text) == [("task", 13), *image, *caption]
    assert ids(masked.text_only) == [("begin", 1), ("text",)]
    assert not causal.asks_questions
    assert not masked.asks_questions


def test_absent_markers_have_no_id():
    special = dataclasses.replace(NATIVE, mask=ABSENT, end_of_line=ABSENT)
    assert special.ids == NATIVE.ids - {5, 8}
    assert special.require("begin", "this test") == 1
    with pytest.raises(ValueError, match=r"no 'mask' token, which this test needs"):
        special.require("mask", "this test")


@pytest.mark.parametrize(
    ("piece", "sentence"),
    [
        ({"name": "begin"}, "'begin' has ids \\[\\]; .* all others need at least one"),
        ({"name": "prompt", "ids": (1,)}, "'prompt' has ids \\[1\\]; .* are filled"),
        ({"name": "task", "ids": (ABSENT,)}, "one of which the vocabulary does not"),
        ({"name": "prompt", "wording": "a"}, "wording of 'prompt' is 'a'; write {}"),
    ],
)
def test_a_piece_is_fixed_or_filled(piece, sentence):
    with pytest.raises(ValueError, match=sentence):
        Piece(**piece)


def test_a_row_without_what_its_task_is_about_is_refused():
    templates = causal_templates(NATIVE)
    with pytest.raises(ValueError, match=r"text_only has pieces \['begin'\]"):
        dataclasses.replace(templates, text_only=templates.text_only[:1])
    twice = (*templates.text_to_image, Piece("prompt"))
    with pytest.raises(ValueError, match="no name twice"):
        dataclasses.replace(templates, text_to_image=twice)


def test_a_fixed_segment_has_a_slot_for_each_id():
    segment = SegmentSpec("begin", TEXT, 1, ids=(1, 2))
    with pytest.raises(ValueError, match=r"'begin' of task 'a' has 1 slots for ids"):
        TaskLayout("a", (segment,), STREAMS)


def test_a_row_that_needs_a_marker_is_refused_without_it():
    without = dataclasses.replace(NATIVE, end_of_line=ABSENT, begin_speech=ABSENT)
    image = SegmentSpec("image", IMAGE, 6, line_length=2)
    with pytest.raises(ValueError, match="no 'end_of_line' token, which task 'a'"):
        TaskLayout("a", (image,), STREAMS, special=without)
    with pytest.raises(ValueError, match="no 'begin_speech' token, which task 'b'"):
        InterleavedLayout("b", STREAMS, ((SPEECH, 4),), special=without)


def test_a_fixed_segment_predicts_from_its_last_id_only():
    """After two fixed ids a caption has one slot that may predict its beginning."""
    segments = (
        SegmentSpec("begin", TEXT, 3, predicted_by="nothing", ids=(1, 20, 21)),
        SegmentSpec("caption", TEXT, 2),
    )
    layout = TaskLayout("a", segments, STREAMS)
    assert layout.predicting_slots(TEXT) == slice(2, 4)
