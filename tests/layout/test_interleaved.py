"""Packed rows: who sees whom, who predicts whom, and which slot holds what."""

import jax
import numpy as np
import pytest

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
    SPEECH,
    TEXT,
    Document,
    InterleavedDocument,
    InterleavedLayout,
    SegmentSpec,
    Span,
    Stream,
    TaskLayout,
    lay_out,
    lay_out_documents,
    with_segments,
)

THREE_STREAMS = (Stream.of(TEXT), Stream.of(IMAGE), Stream.of(SPEECH))
ONE_STREAM = (Stream.of(IMAGE, SPEECH, TEXT),)
SLOTS = ((TEXT, 6), (IMAGE, 4), (SPEECH, 3))
LAYOUT = InterleavedLayout("interleaved", THREE_STREAMS, SLOTS)


def text(*tokens, **options):
    return Span(TEXT, tokens, **options)


def image(*tokens, **options):
    return Span(IMAGE, tokens, **options)


def speech(*tokens, **options):
    return Span(SPEECH, tokens, **options)


def row(*documents, layout=LAYOUT):
    return lay_out_documents(
        [InterleavedDocument(spans) for spans in documents], layout
    )


TWO_DOCUMENTS = (
    (text(10, 11), image(20, 21, bidirectional=True), text(12), speech(30, 31)),
    (speech(32), image(22, 23, bidirectional=True), text(13)),
)


@pytest.mark.parametrize("streams", [THREE_STREAMS, ONE_STREAM], ids=len)
def test_documents_see_themselves_and_images_see_themselves_both_ways(streams):
    layout = InterleavedLayout("interleaved", streams, SLOTS)
    expected = matrix(
        "10 00 0 00  0 00 0",
        "11 00 0 00  0 00 0",
        "11 11 0 00  0 00 0",
        "11 11 0 00  0 00 0",
        "11 11 1 00  0 00 0",
        "11 11 1 10  0 00 0",
        "11 11 1 11  0 00 0",
        "00 00 0 00  1 00 0",
        "00 00 0 00  1 11 0",
        "00 00 0 00  1 11 0",
        "00 00 0 00  1 11 1",
    )
    stored = row(*TWO_DOCUMENTS, layout=layout)
    np.testing.assert_array_equal(visibility(stored), expected)
    # Empty slots neither see nor are seen.
    assert stored_visibility(stored).sum() == expected.sum()


def test_images_may_be_causal():
    expected = matrix("1000", "1100", "1110", "1111")
    stored = row((text(10), image(20, 21), text(11)))
    np.testing.assert_array_equal(visibility(stored), expected)


def test_two_images_in_a_row_do_not_see_into_each_other():
    spans = [image(code, code + 1, bidirectional=True) for code in (20, 22)]
    expected = matrix("11 00", "11 00", "11 11", "11 11")
    np.testing.assert_array_equal(visibility(row(spans)), expected)


def test_every_token_is_stored_with_its_modality_in_sequence_order():
    stored = row(*TWO_DOCUMENTS)
    expected = {
        TEXT: ([10, 11, 12, 13, 0, 0], [0, 1, 4, 10, -1, -1]),
        IMAGE: ([20, 21, 22, 23], [2, 3, 8, 9]),
        SPEECH: ([30, 31, 32], [5, 6, 7]),
    }
    for index, (name, (ids, positions)) in enumerate(expected.items()):
        stream = stored.streams[name]
        np.testing.assert_array_equal(stream.token_id_BT, ids)
        np.testing.assert_array_equal(stream.position_BT, positions)
        held = np.array(positions) >= 0
        np.testing.assert_array_equal(stream.modality_BT, np.where(held, index, -1))
    assert {leaf.dtype for leaf in jax.tree.leaves(stored.streams)} == {np.dtype("i4")}


def test_targets_stay_within_a_document():
    stored = row(*TWO_DOCUMENTS)
    np.testing.assert_array_equal(
        in_order(stored, "target_id_BT"), [11, 20, 21, 12, 30, 31, 0, 22, 23, 13, 0]
    )
    np.testing.assert_array_equal(
        in_order(stored, "target_modality_BT"), [0, 1, 1, 0, 2, 2, -1, 1, 1, 0, -1]
    )


def test_spans_that_are_not_predicted_are_no_targets():
    stored = row((text(10), image(20, 21, predicted=False), text(11)))
    np.testing.assert_array_equal(in_order(stored, "target_id_BT"), [0, 0, 11, 0])
    np.testing.assert_array_equal(
        in_order(stored, "target_modality_BT"), [-1, -1, 0, -1]
    )


def test_the_raster_index_counts_on_over_the_images_of_a_row():
    stored = row(*TWO_DOCUMENTS)
    np.testing.assert_array_equal(stored.streams[IMAGE].patch_index_BT, [0, 1, 2, 3])
    assert (stored.streams[TEXT].patch_index_BT == -1).all()
    assert (stored.streams[SPEECH].patch_index_BT == -1).all()


def test_a_single_document_is_what_a_layout_with_segments_makes_of_it():
    segments = (
        SegmentSpec("begin", TEXT, 1, predicted_by="nothing"),
        SegmentSpec("image", IMAGE, 3, span="image"),
        SegmentSpec("caption", TEXT, 2),
    )
    ids = {"begin": [1], "image": [20, 21, 22], "caption": [10, 11]}
    task = TaskLayout("task", segments, THREE_STREAMS)
    expected = lay_out(Document(ids), task)
    layout = InterleavedLayout("task", THREE_STREAMS, ((TEXT, 3), (IMAGE, 3)))
    spans = text(1), image(20, 21, 22, bidirectional=True), text(10, 11)
    stored = row(spans, layout=layout)
    assert stored.streams.keys() == expected.streams.keys() == {TEXT, IMAGE}
    jax.tree.map(np.testing.assert_array_equal, stored.streams, expected.streams)


TRANSFUSION = InterleavedLayout(
    "interleaved",
    THREE_STREAMS[:2],
    ((TEXT, 3), (IMAGE, 6)),
    patches_per_image=2,
    patch_size=3,
    bidirectional=(IMAGE,),
)


def patches(value, **options):
    values = np.full((2, 3), value, np.float32)
    return Span(IMAGE, (), bidirectional=True, patches=values, **options)


def test_continuous_images_are_patches_with_a_largest_time_and_no_targets():
    first = (patches(0.1, largest_time=0.5), text(10))
    stored = row(first, (text(11), patches(0.2)), layout=TRANSFUSION)
    stream = stored.streams[IMAGE]
    np.testing.assert_array_equal(stream.token_id_BT, [0] * 6)
    np.testing.assert_array_equal(stream.patch_index_BT, [0, 1, 2, 3, -1, -1])
    np.testing.assert_array_equal(stream.target_modality_BT, [-1, 0, -1, -1, -1, -1])
    np.testing.assert_array_equal(stored.streams[TEXT].target_modality_BT, [-1, -1, -1])
    np.testing.assert_array_equal(
        stored.patch_BNP[:, 0], np.array([0.1, 0.1, 0.2, 0.2, 0, 0], np.float32)
    )
    np.testing.assert_array_equal(stored.largest_time_BN, [0.5, 0.5, 1, 1, 0, 0])
    np.testing.assert_array_equal(stored.patch_time_BN, [0.0] * 6)
    expected = matrix(
        "11 0 0 00", "11 0 0 00", "11 1 0 00", "00 0 1 00", "00 0 1 11", "00 0 1 11"
    )
    np.testing.assert_array_equal(visibility(stored), expected)


def test_a_row_without_documents_is_empty():
    stored = row(layout=TRANSFUSION)
    assert len(held_slots(stored)) == 0
    assert (column(stored, "token_id_BT") == 0).all()
    assert (column(stored, "target_modality_BT") == -1).all()
    assert stored.patch_BNP.shape == (6, 3)


def test_the_layout_counts_like_any_other():
    assert LAYOUT.modalities == (TEXT, IMAGE, SPEECH)
    assert LAYOUT.stream_names == (TEXT, IMAGE, SPEECH)
    assert [LAYOUT.num_tokens(name) for name in LAYOUT.stream_names] == [6, 4, 3]
    assert (LAYOUT.row_length, LAYOUT.num_patches, LAYOUT.patches_per_image) == (
        13,
        0,
        0,
    )
    assert LAYOUT.target_modalities == {TEXT, IMAGE, SPEECH}
    assert LAYOUT.is_causal(IMAGE) and LAYOUT.predicts(SPEECH)
    assert not LAYOUT.holds_patches(IMAGE)
    together = InterleavedLayout("interleaved", ONE_STREAM, SLOTS)
    assert together.modalities == (IMAGE, SPEECH, TEXT)
    assert together.num_tokens("image+speech+text") == 13
    assert TRANSFUSION.num_patches == 6 and TRANSFUSION.target_modalities == {TEXT}
    assert TRANSFUSION.holds_patches(IMAGE) and not TRANSFUSION.holds_patches(TEXT)
    text_only = InterleavedLayout("text", THREE_STREAMS, ((TEXT, 3), (IMAGE, 0)))
    assert text_only.stream_names == (TEXT,)
    assert text_only.target_modalities == {TEXT}
    assert hash(LAYOUT) == hash(InterleavedLayout("interleaved", THREE_STREAMS, SLOTS))


def test_too_many_tokens_of_a_modality_are_refused_in_one_sentence():
    documents = [(image(20, 21),)] * 3
    with pytest.raises(ValueError, match=r"3 documents have 6 image tokens .* 4 slots"):
        row(*documents)


def test_patches_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"patches of shape \(2, 3\), .* \(0, 0\)"):
        row((patches(0.0),))
    with pytest.raises(ValueError, match=r"'image' has patches of shape \(0, 0\)"):
        row((image(20, 21),), layout=TRANSFUSION)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slots": (("video", 3),)}, "'video', which no stream stores"),
        ({"patches_per_image": 3, "patch_size": 2}, "4 image slots for images of 3"),
        ({"patches_per_image": 2}, "at least one value"),
    ],
)
def test_impossible_layouts_are_refused(change, words):
    options = {"slots": SLOTS} | change
    with pytest.raises(ValueError, match=words):
        InterleavedLayout("interleaved", THREE_STREAMS, **options)


def test_rows_of_documents_have_no_segments():
    with pytest.raises(TypeError, match="without named segments"):
        with_segments(LAYOUT)
