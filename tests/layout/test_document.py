"""Laying out a document: ids, targets across stream borders, and refusals."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.layout.rows_in_sequence_order import column, in_order
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    Document,
    SegmentSpec,
    Stream,
    TaskLayout,
    lay_out,
)

MODALITIES = (TEXT, IMAGE)
ONE_STREAM = (Stream.of(TEXT, IMAGE),)
TWO_STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
NEXT_TOKEN_ROW = (
    SegmentSpec("begin", TEXT, 1, predicted_by="nothing"),
    SegmentSpec("prompt", TEXT, 3),
    SegmentSpec("image", IMAGE, 2),
    SegmentSpec("end", TEXT, 1),
)


def lay(segments, tokens, streams=TWO_STREAMS, patches=None):
    layout = TaskLayout("task", tuple(segments), streams)
    return lay_out(Document(tokens, patches), layout)


def test_next_token_targets_cross_stream_borders():
    tokens = {"begin": [1], "prompt": [10, 11], "image": [20, 21], "end": [4]}
    stored = lay(NEXT_TOKEN_ROW, tokens)
    text, image = stored.streams[TEXT], stored.streams[IMAGE]
    # Text slots: begin, prompt, prompt, empty, end.
    np.testing.assert_array_equal(text.token_id_BT, [1, 10, 11, 0, 4])
    np.testing.assert_array_equal(text.target_id_BT, [10, 11, 20, 0, 0])
    np.testing.assert_array_equal(text.target_modality_BT, [0, 0, 1, -1, -1])
    np.testing.assert_array_equal(text.modality_BT, [0, 0, 0, -1, 0])
    np.testing.assert_array_equal(image.target_id_BT, [21, 4])
    np.testing.assert_array_equal(image.target_modality_BT, [1, 0])
    np.testing.assert_array_equal(image.patch_index_BT, [0, 1])
    np.testing.assert_array_equal(text.patch_index_BT, [-1] * 5)


def test_a_dropped_segment_hands_its_first_target_to_the_token_before():
    tokens = {"begin": [1], "prompt": [], "image": [20, 21], "end": [4]}
    text = lay(NEXT_TOKEN_ROW, tokens).streams[TEXT]
    np.testing.assert_array_equal(text.target_id_BT, [20, 0, 0, 0, 0])
    np.testing.assert_array_equal(text.target_modality_BT, [1, -1, -1, -1, -1])


def test_tokens_predicted_in_place_are_their_own_targets():
    segments = (
        SegmentSpec("prompt", TEXT, 2, predicted_by="nothing"),
        SegmentSpec("image", IMAGE, 2, predicted_by="itself"),
        SegmentSpec("end", TEXT, 1, predicted_by="nothing"),
    )
    tokens = {"prompt": [10, 11], "image": [20, 21], "end": [4]}
    stored = lay(segments, tokens, ONE_STREAM)
    np.testing.assert_array_equal(
        column(stored, "target_modality_BT"), [-1, -1, 1, 1, -1]
    )
    np.testing.assert_array_equal(column(stored, "target_id_BT"), [0, 0, 20, 21, 0])


def test_nothing_is_predicted_where_the_layout_says_so():
    segments = (
        SegmentSpec("shown", IMAGE, 2, predicted_by="nothing"),
        SegmentSpec("caption", TEXT, 2),
    )
    stored = lay(segments, {"shown": [20, 21], "caption": [10, 2]})
    # The last shown code predicts the caption's first token; no code is a target.
    np.testing.assert_array_equal(stored.streams[IMAGE].target_modality_BT, [-1, 0])
    np.testing.assert_array_equal(stored.streams[IMAGE].target_id_BT, [0, 10])
    np.testing.assert_array_equal(stored.streams[TEXT].target_id_BT, [2, 0])


def test_continuous_patches_are_padding_ids_and_no_vocabulary_targets():
    segments = (
        SegmentSpec("begin", TEXT, 1, predicted_by="nothing"),
        SegmentSpec("image", IMAGE, 2, predicted_by="itself", continuous=True),
        SegmentSpec("caption", TEXT, 1),
    )
    patches = np.arange(6, dtype=np.float32).reshape(2, 3)
    stored = lay(segments, {"begin": [1], "caption": [10]}, patches=patches)
    image = stored.streams[IMAGE]
    np.testing.assert_array_equal(image.token_id_BT, [0, 0])
    np.testing.assert_array_equal(image.position_BT, [1, 2])
    np.testing.assert_array_equal(image.patch_index_BT, [0, 1])
    np.testing.assert_array_equal(image.target_modality_BT, [-1, 0])
    np.testing.assert_array_equal(stored.streams[TEXT].target_modality_BT, [-1, -1])
    np.testing.assert_array_equal(stored.patch_BNP, patches)


def test_the_raster_index_goes_on_over_several_images():
    segments = (
        SegmentSpec("first", IMAGE, 2),
        SegmentSpec("between", TEXT, 1),
        SegmentSpec("second", IMAGE, 2),
    )
    tokens = {"first": [20, 21], "between": [10], "second": [22, 23]}
    stored = lay(segments, tokens, ONE_STREAM)
    np.testing.assert_array_equal(column(stored, "patch_index_BT"), [0, 1, -1, 2, 3])


def test_too_many_tokens_are_refused_in_one_sentence():
    with pytest.raises(
        ValueError, match=r"'prompt' of task 'task' got 4 tokens but has 3 slots"
    ):
        lay(NEXT_TOKEN_ROW, {"prompt": [1, 2, 3, 4]})


def test_an_unknown_segment_is_refused_by_name():
    with pytest.raises(ValueError, match=r"\['promt'\].*use \['begin', 'end'"):
        lay(NEXT_TOKEN_ROW, {"promt": [1]})


def test_a_missing_marker_from_which_something_is_predicted_is_refused():
    segments = (
        SegmentSpec("begin", TEXT, 1, predicted_by="nothing"),
        SegmentSpec("shown", TEXT, 3, predicted_by="nothing"),
        SegmentSpec("answer", TEXT, 1, predicted_by="nothing"),
        SegmentSpec("text", TEXT, 3),
    )
    with pytest.raises(
        ValueError,
        match=r"slot 2 of stream 'text' of task 'task' predicts a token, but only "
        r"slots 4 to 6 may; give every segment of one slot its token\.",
    ):
        lay(segments, {"begin": [1], "shown": [8, 8], "text": [9]})


def fewest_tokens(segment):
    """Markers are always there."""
    return int(segment.num_slots == 1)


@st.composite
def rows_with_distinct_tokens(draw):
    segments, tokens, next_id = [], {}, 10
    for index in range(draw(st.integers(1, 5))):
        segment = SegmentSpec(
            f"segment_{index}",
            draw(st.sampled_from(MODALITIES)),
            draw(st.integers(1, 4)),
            predicted_by=draw(st.sampled_from(["predecessor", "nothing"])),
        )
        length = draw(st.integers(fewest_tokens(segment), segment.num_slots))
        segments.append(segment)
        tokens[segment.name] = list(range(next_id, next_id + length))
        next_id += length
    return segments, tokens


@hypothesis.settings(max_examples=60)
@hypothesis.given(rows_with_distinct_tokens())
def test_every_token_predicts_its_successor_in_every_storage_order(case):
    segments, tokens = case
    ids, targets, modalities = [], [], []
    for segment in segments:
        for token in tokens[segment.name]:
            predicted = segment.predicted_by == "predecessor"
            ids.append(token)
            targets.append(token if predicted else 0)
            modalities.append(segment.modality if predicted else None)
    # Each token's target is what its successor asks for; the last has none.
    targets, modalities = [*targets[1:], 0], [*modalities[1:], None]
    for streams in (ONE_STREAM, TWO_STREAMS, TWO_STREAMS[::-1]):
        stored = lay(segments, tokens, streams)
        np.testing.assert_array_equal(in_order(stored, "token_id_BT"), ids)
        if ids:
            np.testing.assert_array_equal(in_order(stored, "target_id_BT"), targets)
            names = [*stored.layout.modalities, None]
            index = in_order(stored, "target_modality_BT")
            assert [names[place] for place in index] == modalities
        empty = column(stored, "position_BT") < 0
        assert (column(stored, "token_id_BT")[empty] == 0).all()
        assert (column(stored, "target_modality_BT")[empty] == -1).all()
        assert (column(stored, "modality_BT")[empty] == -1).all()


@st.composite
def short_rows(draw):
    """Segments of up to three slots, of every kind."""
    segments = []
    for index in range(draw(st.integers(1, 4))):
        continuous = draw(st.sampled_from([False, False, False, True]))
        segment = SegmentSpec(
            f"segment_{index}",
            IMAGE if continuous else draw(st.sampled_from(MODALITIES)),
            2 if continuous else draw(st.integers(1, 3)),
            predicted_by=draw(st.sampled_from(["predecessor", "itself", "nothing"])),
            continuous=continuous,
        )
        segments.append(segment)
    return segments


@hypothesis.settings(max_examples=60)
@hypothesis.given(short_rows())
def test_predicting_slots_are_the_shortest_range_that_holds_all_targets(segments):
    """Over every way to fill the row."""
    lengths = [
        [s.num_slots] if s.continuous else range(fewest_tokens(s), s.num_slots + 1)
        for s in segments
    ]
    for streams in (ONE_STREAM, TWO_STREAMS):
        slots = {stream.name: set() for stream in streams}
        for filled in itertools.product(*lengths):
            tokens = {
                segment.name: [9] * length
                for segment, length in zip(segments, filled, strict=True)
                if not segment.continuous
            }
            row = lay(segments, tokens, streams)
            for name, stream in row.streams.items():
                slots[name] |= set(np.flatnonzero(stream.target_modality_BT >= 0))
        for name, predicting in slots.items():
            expected = slice(0, 0)
            if predicting:
                expected = slice(min(predicting), max(predicting) + 1)
            assert row.layout.predicting_slots(name) == expected
            assert row.layout.predicts(name) == bool(predicting)
