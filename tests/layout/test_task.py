"""What a task's static layout knows about its streams."""

import dataclasses

import pytest

from unimod_jax.layout import IMAGE, TEXT, SegmentSpec, Stream, TaskLayout

ONE_STREAM = (Stream.of(TEXT, IMAGE),)
TWO_STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
BOTH = "text+image"


def show_o_row(streams, **options):
    segments = (
        SegmentSpec("prompt", TEXT, 3, predicted_by="nothing"),
        SegmentSpec("begin_image", TEXT, 1, span="image", predicted_by="nothing"),
        SegmentSpec("image", IMAGE, 4, span="image", predicted_by="itself"),
        SegmentSpec("end_image", TEXT, 1, span="image", predicted_by="nothing"),
    )
    return TaskLayout("text_to_image", segments, streams, **options)


def captioning(predicted_by="predecessor", continuous=False):
    segments = (
        SegmentSpec(
            "image",
            IMAGE,
            4,
            span="image",
            predicted_by=predicted_by,
            continuous=continuous,
        ),
        SegmentSpec("caption", TEXT, 5),
    )
    return TaskLayout("captioning", segments, TWO_STREAMS)


def test_a_stream_is_named_after_its_modalities():
    assert Stream.of(TEXT, IMAGE) == Stream(BOTH, (TEXT, IMAGE))
    assert Stream.of(IMAGE) == Stream("image", (IMAGE,))


def test_slots_are_counted_per_stream_and_per_row():
    layout = show_o_row(TWO_STREAMS)
    assert layout.stream_names == (TEXT, IMAGE)
    assert layout.num_tokens(TEXT) == 5
    assert layout.num_tokens(IMAGE) == 4
    assert layout.row_length == 9
    assert show_o_row(ONE_STREAM).stream_names == (BOTH,)
    assert show_o_row(ONE_STREAM).num_tokens(BOTH) == 9


def test_streams_without_slots_are_not_listed():
    text_only = TaskLayout("text", (SegmentSpec("text", TEXT, 2),), TWO_STREAMS)
    assert text_only.stream_names == (TEXT,)
    assert text_only.num_tokens(IMAGE) == 0


def test_slot_ranges_count_the_slots_of_their_own_stream():
    two, one = show_o_row(TWO_STREAMS), show_o_row(ONE_STREAM)
    assert two.slot_range("end_image") == (TEXT, 4, 1)
    assert two.slot_range("image") == (IMAGE, 0, 4)
    assert one.slot_range("end_image") == (BOTH, 8, 1)
    assert one.slot_range("image") == (BOTH, 4, 4)
    with pytest.raises(KeyError, match="no segment 'caption'"):
        two.slot_range("caption")


def test_a_stream_is_causal_when_its_tokens_are_revealed_one_by_one():
    assert not captioning().is_causal(IMAGE)
    assert captioning().is_causal(TEXT)
    assert show_o_row(ONE_STREAM).is_causal(BOTH)
    whole = show_o_row(TWO_STREAMS, reads_whole_row=True)
    assert not whole.is_causal(TEXT)
    assert not whole.is_causal(IMAGE)


def test_a_stream_of_two_separate_images_is_causal():
    # Ranking both images together would let the first look ahead at the second.
    segments = (
        SegmentSpec("first", IMAGE, 2, span="image"),
        SegmentSpec("between", TEXT, 1),
        SegmentSpec("second", IMAGE, 2, span="image"),
    )
    assert TaskLayout("interleaved", segments, TWO_STREAMS).is_causal(IMAGE)


def test_neighbours_of_one_span_see_each_other_and_two_spans_do_not():
    segments = (
        SegmentSpec("first", IMAGE, 2, span="first"),
        SegmentSpec("second", IMAGE, 3, span="second"),
        SegmentSpec("end_image", TEXT, 1, span="second"),
    )
    layout = TaskLayout("pair", segments, TWO_STREAMS)
    ends = layout.segment_ends({"first": 2, "second": 3, "end_image": 1})
    assert ends.span == {"first": 2, "second": 6, "end_image": 6}
    assert layout.is_causal(IMAGE)
    assert not layout.is_causal(TEXT)


def test_the_head_reads_the_streams_that_predict_ids():
    # The last patch or code predicts the first caption token, so both are read.
    assert captioning().predicts(IMAGE)
    assert captioning().predicts(TEXT)
    assert captioning("itself", continuous=True).predicts(IMAGE)
    # In-place prediction reads the image alone.
    assert show_o_row(TWO_STREAMS).predicts(IMAGE)
    assert not show_o_row(TWO_STREAMS).predicts(TEXT)


def test_a_caption_is_predicted_by_the_slots_before_each_of_its_tokens():
    # From the marker before it to the last token but one.
    marked = (
        SegmentSpec("image", IMAGE, 4, predicted_by="nothing"),
        SegmentSpec("begin", TEXT, 1, predicted_by="nothing"),
        SegmentSpec("caption", TEXT, 5),
    )
    one = TaskLayout("captioning", marked, ONE_STREAM)
    two = TaskLayout("captioning", marked, TWO_STREAMS)
    assert one.predicting_slots(BOTH) == slice(4, 9)
    assert two.predicting_slots(TEXT) == slice(0, 5)
    assert two.predicting_slots(IMAGE) == slice(0, 0)
    assert not two.predicts(IMAGE)


def test_any_slot_of_a_stretch_may_be_its_last_but_patches_are_always_all_there():
    assert captioning("nothing").predicting_slots(IMAGE) == slice(0, 4)
    patches = captioning("itself", continuous=True)
    assert patches.predicting_slots(IMAGE) == slice(3, 4)
    assert patches.predicting_slots(TEXT) == slice(0, 4)


def test_codes_that_are_predicted_in_place_are_read_alone():
    assert show_o_row(ONE_STREAM).predicting_slots(BOTH) == slice(4, 8)
    assert show_o_row(TWO_STREAMS).predicting_slots(IMAGE) == slice(0, 4)
    assert show_o_row(TWO_STREAMS).predicting_slots(TEXT) == slice(0, 0)


def test_patches_are_no_vocabulary_targets():
    assert captioning("itself").target_modalities == {IMAGE, TEXT}
    assert captioning("nothing").target_modalities == {TEXT}
    continuous = captioning("itself", continuous=True)
    assert continuous.target_modalities == {TEXT}
    assert continuous.num_patches == 4
    assert captioning().num_patches == 0


def test_modalities_are_those_of_the_streams_in_stream_order():
    assert show_o_row(TWO_STREAMS).modalities == (TEXT, IMAGE)
    assert show_o_row(TWO_STREAMS[::-1]).modalities == (IMAGE, TEXT)
    # Also those that no segment has: the streams are the model's.
    text_only = TaskLayout("text", (SegmentSpec("text", TEXT, 2),), TWO_STREAMS)
    assert text_only.modalities == (TEXT, IMAGE)


def test_patches_are_counted_per_image_and_found_in_their_stream():
    patches = SegmentSpec("first", IMAGE, 4, continuous=True)
    two = (patches, dataclasses.replace(patches, name="second"))
    layout = TaskLayout("two", (*two, SegmentSpec("text", TEXT, 1)), TWO_STREAMS)
    assert (layout.num_patches, layout.patches_per_image) == (8, 4)
    assert layout.holds_patches(IMAGE) and not layout.holds_patches(TEXT)
    assert layout.patch_range("first") == (0, 4)
    assert layout.patch_range("second") == (4, 4)
    with pytest.raises(KeyError, match="no segment 'third'"):
        layout.patch_range("third")
    assert captioning().patches_per_image == 0
    assert not captioning().holds_patches(IMAGE)
    uneven = (patches, dataclasses.replace(patches, name="second", num_slots=9))
    with pytest.raises(ValueError, match=r"images of \[4, 9\] patches"):
        TaskLayout("two", uneven, TWO_STREAMS)


def test_a_segment_that_no_stream_stores_is_refused():
    segments = (SegmentSpec("speech", "speech", 2),)
    with pytest.raises(ValueError, match="'speech', which no stream stores"):
        TaskLayout("dictation", segments, TWO_STREAMS)
