"""Storage order unless it visits far more blocks than sequence order, by the counts."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from pallas_kernels.routed_attention.block_bounds import block_map
from tests.layout.rows_in_sequence_order import column
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    AttentionOrder,
    Document,
    InterleavedDocument,
    InterleavedLayout,
    SegmentSpec,
    Span,
    Stream,
    TaskLayout,
    join_order,
    lay_out,
    lay_out_documents,
)
from unimod_jax.layout.attention_order import BLOCK, attention_order, visited_blocks
from unimod_jax.layout.typical_documents import typical_documents
from unimod_jax.layout.visibility import document_windows

TWO = (Stream.of(TEXT), Stream.of(IMAGE))
THREE = (*TWO, Stream.of(SPEECH))
ONE = (Stream.of(TEXT, IMAGE, SPEECH),)


def pairs(count, caption, image, streams=TWO, **options):
    """Rows of packed captions with an image each."""
    slots = ((TEXT, count * caption), (IMAGE, count * image))
    return InterleavedLayout(
        "pairs", streams, slots, documents_per_row=count, **options
    )


def show_o(streams=TWO):
    segments = (
        SegmentSpec("prompt", TEXT, 381, predicted_by="nothing"),
        SegmentSpec("begin_image", TEXT, 1, span="image", predicted_by="nothing"),
        SegmentSpec("image", IMAGE, 1024, span="image", predicted_by="itself"),
        SegmentSpec("end_image", TEXT, 1, span="image", predicted_by="nothing"),
    )
    return TaskLayout("text_to_image", segments, streams)


def blocks_of_the_kernels(row):
    """Pairs of blocks that `block_map` visits in a laid-out row, as it is stored."""
    ordered = dataclasses.replace(
        row, streams={name: row.streams[name] for name in join_order(row.streams)}
    )
    fields = ("window_start_BT", "window_end_BT", "position_BT")
    arrays = [jnp.asarray(column(ordered, field))[None] for field in fields]
    return int(block_map(*arrays, query_block=BLOCK, key_block=BLOCK).visible_BNM.sum())


@hypothesis.settings(max_examples=10)
@hypothesis.given(seed=st.integers(0, 2**16))
def test_blocks_are_counted_as_the_kernels_visit_them(seed):
    rng = np.random.default_rng(seed)
    position = rng.permutation(700)
    start = rng.integers(0, 700, 700) * rng.integers(0, 2, 700)
    end = start + rng.integers(1, 300, 700)
    arrays = [jnp.asarray(x, jnp.int32)[None] for x in (start, end, position)]
    expected = block_map(*arrays, query_block=BLOCK, key_block=BLOCK)
    assert visited_blocks(start, end, position) == expected.visible_BNM.sum()


def test_a_task_is_counted_in_its_full_row():
    layout = show_o()
    tokens = {s.name: range(s.num_slots) for s in layout.segments}
    row = lay_out(Document(tokens), layout)
    in_sequence = lay_out(Document(tokens), show_o(ONE))
    order = layout.attention_order
    assert order.storage_blocks == blocks_of_the_kernels(row)
    assert order.sequence_blocks == blocks_of_the_kernels(in_sequence)
    assert order.row_blocks == 11


@pytest.mark.parametrize("bidirectional", [(), (IMAGE,)])
def test_packed_rows_are_counted_in_a_row_of_typical_documents(bidirectional):
    options = {"bidirectional": bidirectional}
    documents = [
        InterleavedDocument(
            tuple(Span(name, range(n), name in bidirectional) for name, n in spans)
        )
        for spans in typical_documents(((TEXT, 520), (IMAGE, 1500)), 5, 0)
    ]
    stored, in_sequence = (
        lay_out_documents(documents, pairs(5, 104, 300, streams, **options))
        for streams in (TWO, ONE)
    )
    order = pairs(5, 104, 300, **options).attention_order
    assert order.storage_blocks == blocks_of_the_kernels(stored)
    assert order.sequence_blocks == blocks_of_the_kernels(in_sequence)
    assert order.storage_blocks != order.sequence_blocks


LONG = InterleavedLayout("long", TWO, ((TEXT, 2048), (IMAGE, 2048)))
DECISIONS = {
    "one long document": (LONG, "storage"),
    "Show-o, text to image": (show_o(), "storage"),
    # An eighth more blocks: less than moving the tokens costs.
    "four pairs of 1,024": (pairs(4, 32, 1024), "storage"),
    "sixteen pairs of 256": (pairs(16, 32, 256), "sequence"),
    # Images first stand on block boundaries: nothing is left to save.
    "sixteen, bidirectional": (
        pairs(16, 32, 256, bidirectional=(IMAGE,)),
        "storage",
    ),
}


@pytest.mark.parametrize(("layout", "expected"), DECISIONS.values(), ids=DECISIONS)
def test_short_packed_documents_are_read_in_sequence_order(layout, expected):
    assert layout.attention_order.name == expected


def test_three_modalities_are_worth_permuting_before_two_are():
    slots = ((TEXT, 1472), (IMAGE, 2048), (SPEECH, 576))
    speaking = InterleavedLayout("speech", THREE, slots, documents_per_row=2)
    assert pairs(2, 1024, 1024).attention_order.name == "storage"
    assert speaking.attention_order.name == "sequence"


def test_joining_images_first_keeps_their_spans_on_block_boundaries():
    assert join_order((TEXT, IMAGE, SPEECH)) == (IMAGE, SPEECH, TEXT)
    lengths = [45, 256] * 16
    is_image = np.repeat([0, 1] * 16, lengths)
    ends = np.cumsum(lengths)
    end = np.repeat(ends, lengths) * is_image
    start = np.repeat([0, *ends[1:-1:2]], 301)
    window = document_windows(np.arange(ends[-1]), end)
    images_first = attention_order(1 - is_image, start, window[1])
    text_first = attention_order(is_image, start, window[1])
    assert images_first.storage_blocks <= images_first.sequence_blocks
    assert text_first.storage_blocks > 1.8 * images_first.storage_blocks
    assert (images_first.name, text_first.name) == ("storage", "sequence")


@pytest.mark.parametrize("count", [1, 4, 16, 64])
def test_one_stream_is_never_permuted(count):
    order = pairs(count, 4096 // count, 0, ONE).attention_order
    assert order.storage_blocks == order.sequence_blocks
    assert order.name == "storage"


def test_short_rows_are_never_permuted():
    slots = ((TEXT, 256), (IMAGE, 256), (SPEECH, 256))
    order = InterleavedLayout("short", THREE, slots, documents_per_row=4)
    order = order.attention_order
    assert order.storage_blocks > 1.25 * order.sequence_blocks
    assert order.name == "storage"


def test_a_quarter_more_blocks_of_a_long_row_are_worth_permuting():
    assert AttentionOrder(125, 100, 8).name == "sequence"
    assert AttentionOrder(124, 100, 8).name == "storage"
    assert AttentionOrder(125, 100, 7).name == "storage"


def test_the_choice_says_its_counts():
    assert str(AttentionOrder(123, 93, 36)) == (
        "attention in sequence order (123 blocks of 128 as stored, 93 in sequence)"
    )


def test_the_choice_can_be_asked_for_while_jax_traces():
    def doubled(x):
        return 2 * x if pairs(16, 32, 256).attention_order.name == "sequence" else x

    assert jax.jit(doubled)(jnp.float32(1.0)) == 2.0


@hypothesis.given(
    counts=st.tuples(st.integers(0, 500), st.integers(0, 9), st.integers(0, 50)),
    num_documents=st.integers(1, 12),
    image_length=st.sampled_from([0, 1, 16]),
)
def test_typical_documents_fill_the_row_with_whole_images(
    counts, num_documents, image_length
):
    text, images, speech = counts
    slots = ((TEXT, text), (IMAGE, images * max(image_length, 1)), (SPEECH, speech))
    documents = typical_documents(slots, num_documents, image_length)
    assert len(documents) == num_documents
    total = dict.fromkeys((TEXT, IMAGE, SPEECH), 0)
    for spans in documents:
        for modality, count in spans:
            total[modality] += count
            if modality == IMAGE and image_length:
                assert count in (0, image_length)
    assert total == dict(slots)


def test_typical_captions_are_of_uneven_length():
    slots = ((TEXT, 400), (IMAGE, 80))
    documents = [dict(spans) for spans in typical_documents(slots, 8, 0)]
    captions = [document[TEXT] for document in documents]
    assert len(set(captions)) > 4
    assert min(captions) >= 24 and max(captions) <= 76
    assert [document[IMAGE] for document in documents] == [10] * 8


def test_a_row_packs_at_least_one_document():
    with pytest.raises(ValueError, match="0 documents per row"):
        InterleavedLayout("none", TWO, ((TEXT, 4),), documents_per_row=0)
