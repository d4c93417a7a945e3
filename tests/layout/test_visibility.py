"""Who sees whom, against matrices written by hand."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from tests.layout.rows_in_sequence_order import (
    column,
    held_slots,
    in_order,
    matrix,
    stored_visibility,
    visibility,
)
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    Document,
    SegmentSpec,
    Stream,
    TaskLayout,
    document_windows,
    lay_out,
    visible_matrix,
)

ONE_STREAM = (Stream.of(TEXT, IMAGE),)
TWO_STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
IMAGE_FIRST = (Stream.of(IMAGE), Stream.of(TEXT))


def text(name, num_slots, **options):
    return SegmentSpec(name, TEXT, num_slots, **options)


def image(name, num_slots, **options):
    return SegmentSpec(name, IMAGE, num_slots, span="image", **options)


def row(segments, lengths=None, streams=ONE_STREAM, **options):
    """A row whose segments are full, or hold as many tokens as `lengths` says."""
    layout = TaskLayout("task", tuple(segments), streams, **options)
    lengths = {segment.name: segment.num_slots for segment in segments} | (
        lengths or {}
    )
    tokens = {name: [9] * length for name, length in lengths.items()}
    return lay_out(Document(tokens), layout)


def test_causal_text_sees_itself_and_what_came_before():
    np.testing.assert_array_equal(
        visibility(row([text("text", 4)])),
        matrix("1000", "1100", "1110", "1111"),
    )


def test_transfusion_patches_see_their_whole_image_and_later_text_sees_it_too():
    segments = [text("before", 2), image("image", 3), text("after", 2)]
    expected = matrix(
        "10 000 00",
        "11 000 00",
        "11 111 00",
        "11 111 00",
        "11 111 00",
        "11 111 10",
        "11 111 11",
    )
    np.testing.assert_array_equal(visibility(row(segments)), expected)


def test_two_separate_images_do_not_see_into_each_other():
    segments = [image("first", 2), text("between", 1), image("second", 2)]
    expected = matrix("11 0 00", "11 0 00", "11 1 00", "11 1 11", "11 1 11")
    np.testing.assert_array_equal(visibility(row(segments)), expected)


def test_show_o_text_to_image_is_omni_attention():
    # The prompt is causal; begin-of-image, codes and end-of-image are one span.
    segments = [
        text("begin", 1),
        text("prompt", 2),
        text("begin_image", 1, span="image"),
        image("image", 2),
        text("end_image", 1, span="image"),
    ]
    expected = matrix(
        "100 0000",
        "110 0000",
        "111 0000",
        "111 1111",
        "111 1111",
        "111 1111",
        "111 1111",
    )
    np.testing.assert_array_equal(visibility(row(segments)), expected)
    np.testing.assert_array_equal(
        visibility(row(segments, streams=TWO_STREAMS)), expected
    )


def test_show_o_understanding_shows_its_prefix_to_every_token():
    segments = [text("begin", 1), image("image", 2), text("caption", 3)]
    expected = matrix("111 000", "111 000", "111 000", "111 100", "111 110", "111 111")
    shown = row(segments, prefix_segment="image")
    np.testing.assert_array_equal(visibility(shown), expected)


def test_without_a_prefix_segment_the_first_token_sees_only_itself():
    segments = [text("begin", 1), image("image", 2), text("caption", 1)]
    expected = matrix("1000", "1110", "1110", "1111")
    np.testing.assert_array_equal(visibility(row(segments)), expected)


def test_empty_prompt_slots_neither_see_nor_are_seen():
    segments = [text("begin", 1), text("prompt", 3), image("image", 2)]
    expected = matrix(
        "1 000 00",
        "1 100 00",
        "0 000 00",
        "0 000 00",
        "1 100 11",
        "1 100 11",
    )
    padded = row(segments, {"prompt": 1})
    np.testing.assert_array_equal(stored_visibility(padded), expected)


def test_empty_slots_do_not_shift_the_positions_of_others():
    segments = [text("begin", 1), text("prompt", 3), image("image", 2), text("end", 1)]
    padded = row(segments, {"prompt": 1})
    np.testing.assert_array_equal(
        column(padded, "position_BT"), [0, 1, -1, -1, 2, 3, 4]
    )
    dropped = row(segments, {"prompt": 0}, streams=TWO_STREAMS)
    np.testing.assert_array_equal(dropped.streams[TEXT].position_BT, [0, -1, -1, -1, 3])
    np.testing.assert_array_equal(dropped.streams[IMAGE].position_BT, [1, 2])


def test_documents_packed_in_one_row_do_not_see_each_other():
    position = np.array([0, 1, 2, 3, 4], np.int32)
    causal = np.zeros(2, np.int32)
    first = document_windows(position[:2], causal)
    second = document_windows(
        position[2:], np.array([0, 5, 5], np.int32), document_start=2
    )
    start, end = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    expected = matrix("10 000", "11 000", "00 100", "00 111", "00 111")
    np.testing.assert_array_equal(visible_matrix(start, end, position), expected)


@st.composite
def rows_of_segments(draw):
    """Segments of random kinds and sizes, how many tokens each holds, and a prefix."""
    count = draw(st.integers(1, 5))
    segments, lengths = [], {}
    for index in range(count):
        segment = SegmentSpec(
            f"segment_{index}",
            draw(st.sampled_from([TEXT, IMAGE])),
            draw(st.integers(1, 4)),
            span=draw(st.sampled_from(["", "", "image", "other"])),
            predicted_by=draw(st.sampled_from(["predecessor", "nothing"])),
        )
        segments.append(segment)
        # Markers are always there.
        fewest = int(segment.num_slots == 1)
        lengths[segment.name] = draw(st.integers(fewest, segment.num_slots))
    names = [None, *lengths]
    return segments, lengths, draw(st.sampled_from(names))


def visible_by_definition(segments, lengths, prefix_segment):
    """The rule in words: what came before, one's own span, and the prefix."""
    span, prefix_end, run, before = [], 0, 0, ""
    for segment in segments:
        run += segment.span != before
        before = segment.span
        span += [run if segment.span else None] * lengths[segment.name]
        if segment.name == prefix_segment:
            prefix_end = len(span)
    return np.array(
        [
            [
                key <= query
                or key < prefix_end
                or (span[query] is not None and span[key] == span[query])
                for key in range(len(span))
            ]
            for query in range(len(span))
        ],
        bool,
    ).reshape(len(span), len(span))


@hypothesis.settings(max_examples=60)
@hypothesis.given(rows_of_segments())
def test_windows_are_the_rule_in_every_storage_order(case):
    segments, lengths, prefix = case
    expected = visible_by_definition(segments, lengths, prefix)
    for streams in (ONE_STREAM, TWO_STREAMS, IMAGE_FIRST):
        stored = row(segments, lengths, streams, prefix_segment=prefix)
        np.testing.assert_array_equal(visibility(stored), expected)
        # Nobody outside the held tokens sees or is seen.
        assert stored_visibility(stored).sum() == expected.sum()


@hypothesis.settings(max_examples=60)
@hypothesis.given(rows_of_segments())
def test_positions_count_the_held_tokens_in_every_storage_order(case):
    segments, lengths, _ = case
    for streams in (ONE_STREAM, TWO_STREAMS, IMAGE_FIRST):
        stored = row(segments, lengths, streams)
        num_held = sum(lengths.values())
        assert len(held_slots(stored)) == num_held
        np.testing.assert_array_equal(
            in_order(stored, "position_BT"), np.arange(num_held)
        )
