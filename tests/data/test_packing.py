"""Packing loses nothing, keeps what is whole whole, and wastes no more than it says."""

import collections
import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from unimod_jax.data import CountBuckets, DataError, PackedRow, PackingReport, pack
from unimod_jax.data.packing import FirstFit, fewest_tokens
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedDocument,
    Span,
    SpecialTokens,
)

SPECIAL = SpecialTokens()

SLOTS = ((TEXT, 12), (IMAGE, 8), (SPEECH, 6))
BUCKETS = CountBuckets(
    16,
    (
        ((TEXT, 16), (IMAGE, 0)),
        ((TEXT, 12), (IMAGE, 4)),
        ((TEXT, 8), (IMAGE, 8)),
        ((TEXT, 6), (IMAGE, 6), (SPEECH, 4)),
    ),
)


def document(*lengths, name="this document", first_id=100):
    """A document of spans of (modality, length), all its tokens different."""
    number = itertools.count(first_id)
    spans = [
        Span(modality, tuple(itertools.islice(number, length)))
        for modality, length in lengths
    ]
    return InterleavedDocument(tuple(spans), name)


def documents_of(most_text):
    """Lists of documents; the ids of document i start at 1000 * i."""
    span = st.one_of(
        st.tuples(st.just(TEXT), st.integers(1, most_text)),
        st.tuples(st.sampled_from([IMAGE, SPEECH]), st.integers(1, 4)),
    )
    all_lengths = st.lists(st.lists(span, min_size=1, max_size=4), max_size=25)
    return all_lengths.map(
        lambda lists: [
            document(*lengths, first_id=1000 * index)
            for index, lengths in enumerate(lists)
        ]
    )


def that_fit(documents, buckets):
    return [d for d in documents if buckets.fitting(d.num_tokens()) is not None]


def tokens_of(documents):
    return [
        (span.modality, token)
        for document in documents
        for span in document.spans
        for token in span.tokens
    ]


WAYS_TO_PACK = st.tuples(
    st.sampled_from([CountBuckets.single(SLOTS), BUCKETS]),
    st.sampled_from([None, 1, 3]),
)


@hypothesis.settings(max_examples=150)
@hypothesis.given(documents_of(6), WAYS_TO_PACK)
def test_every_document_is_in_exactly_one_row_that_it_fits(documents, way):
    buckets, open_rows = way
    documents = that_fit(documents, buckets)
    rows, report = pack(documents, buckets, open_rows=open_rows)
    packed = [document for row in rows for document in row.documents]
    assert sorted(map(id, packed)) == sorted(map(id, documents))
    for row in rows:
        slots = dict(buckets.buckets[row.bucket])
        assert all(n <= slots.get(name, 0) for name, n in row.num_tokens().items())
    counted = collections.Counter(name for name, _ in tokens_of(documents))
    assert +collections.Counter(report.tokens) == counted
    assert report.rows == len(rows) == sum(report.rows_per_bucket)
    assert sum(report.slots.values()) == len(rows) * buckets.row_length


@hypothesis.settings(max_examples=150)
@hypothesis.given(documents_of(60), WAYS_TO_PACK)
def test_split_documents_keep_all_their_tokens_in_order(documents, way):
    buckets, open_rows = way
    rows, _ = pack(documents, buckets, open_rows=open_rows, split_text=True)
    parts = collections.defaultdict(list)
    for part in (part for row in rows for part in row.documents):
        tokens = tokens_of([part])
        assert tokens
        parts[tokens[0][1] // 1000].append(tokens)
    for index, whole in enumerate(documents):
        in_order = sorted(parts.pop(index), key=lambda tokens: tokens[0][1])
        assert [*itertools.chain(*in_order)] == tokens_of([whole])
    assert not parts


@hypothesis.settings(max_examples=150)
@hypothesis.given(documents_of(6), WAYS_TO_PACK)
def test_the_waste_is_within_its_bound(documents, way):
    buckets, open_rows = way
    documents = that_fit(documents, buckets)
    rows, report = pack(documents, buckets, open_rows=open_rows)
    assert 0.0 <= report.waste <= report.waste_bound <= 1.0
    # The observation behind it: all rows but one are nearly full of some modality.
    largest = collections.Counter()
    for held in (document.num_tokens() for document in documents):
        largest |= collections.Counter(held)
    nearly_full = [
        all(
            any(
                row.num_tokens()[name] > dict(slots).get(name, 0) - largest[name]
                for name in largest
            )
            for slots in buckets.buckets
        )
        for row in rows
    ]
    assert sum(nearly_full) >= len(rows) - 1


def test_text_alone_is_bounded_as_in_one_dimension():
    buckets = CountBuckets.single(((TEXT, 10),))
    rows, report = pack([document((TEXT, 4))] * 7, buckets)
    assert [len(row.documents) for row in rows] == [2, 2, 2, 1]
    assert report.waste == pytest.approx(12 / 40)
    # A row that a document of 4 does not fit holds at least 7 of 10.
    assert fewest_tokens(buckets, {TEXT: 4}) == 7
    assert report.waste_bound == pytest.approx(1 - 3 * 7 / 40)


def test_the_fewest_tokens_count_once_for_all_buckets():
    # Text alone: with 14 of 16 slots taken, 3 tokens fit none of the buckets.
    assert fewest_tokens(BUCKETS, {TEXT: 3}) == 14
    two = CountBuckets(10, (((TEXT, 8), (IMAGE, 2)), ((TEXT, 4), (IMAGE, 6))))
    # The first bucket needs 6 of text or 1 of image, the second 2 or 5.
    assert fewest_tokens(two, {TEXT: 3, IMAGE: 2}) == 1 + 2


def test_documents_go_into_the_first_open_row_they_fit():
    documents = [document((TEXT, n), name=str(n)) for n in (7, 6, 3, 4, 6)]

    def names(**options):
        rows, _ = pack(documents, ((TEXT, 10),), **options)
        return [[document.name for document in row.documents] for row in rows]

    assert names() == [["7", "3"], ["6", "4"], ["6"]]
    assert names(open_rows=1) == [["7"], ["6", "3"], ["4", "6"]]


def test_rows_take_the_first_bucket_that_fits_what_they_hold():
    def bucket_of(*lengths):
        ((row,), _) = pack([document(*lengths)], BUCKETS)
        return row.bucket

    assert bucket_of((TEXT, 16)) == 0
    assert bucket_of((TEXT, 3), (IMAGE, 4)) == 1
    assert bucket_of((IMAGE, 5)) == 2
    assert bucket_of((TEXT, 2), (IMAGE, 1), (SPEECH, 4)) == 3


def test_a_document_longer_than_a_row_is_refused_by_name():
    long = document((TEXT, 4), (IMAGE, 9), name="scan-0007")
    words = r"scan-0007 has 9 image tokens .* 8 slots"
    with pytest.raises(DataError, match=words):
        pack([long], SLOTS)
    # Splitting text does not help an image.
    with pytest.raises(DataError, match=words):
        pack([long], SLOTS, split_text=True)
    with pytest.raises(DataError, match=r"has 17 text tokens but a row has 16"):
        pack([document((TEXT, 17))], BUCKETS)


def test_long_text_is_cut_where_a_row_is_full():
    rows, report = pack([document((TEXT, 25))], ((TEXT, 10),), split_text=True)
    parts = [tokens_of(row.documents) for row in rows]
    assert [len(part) for part in parts] == [10, 10, 5]
    assert [*itertools.chain(*parts)] == tokens_of([document((TEXT, 25))])
    assert rows[1].documents[0].name == "this document, part 2"
    assert report.waste_of(TEXT) == pytest.approx(5 / 30)


def test_images_stay_with_their_markers_when_text_is_cut():
    begin, end = SPECIAL.begin_image, SPECIAL.end_image
    whole = InterleavedDocument(
        (
            Span(TEXT, (100, 101, 102, begin)),
            Span(IMAGE, (200, 201)),
            Span(TEXT, (end, 103, 104)),
        )
    )
    rows, _ = pack([whole], ((TEXT, 4), (IMAGE, 2)), split_text=True)
    # The image with both markers does not fit beside three words.
    ids = [[token for _, token in tokens_of(row.documents)] for row in rows]
    assert ids == [[100, 101, 102], [begin, 200, 201, end, 103, 104]]


def test_empty_rows_count_as_waste():
    buckets = CountBuckets.single(((TEXT, 4),))
    rows = [PackedRow((document((TEXT, 4)),), 0), PackedRow((), 0)]
    report = PackingReport.of(rows, buckets)
    assert (report.rows, report.waste) == (2, 0.5)
    assert "2 rows, 50.0% of the slots empty" in str(report)
    assert pack([], buckets)[1].waste == 0.0


def test_buckets_of_different_lengths_are_refused():
    with pytest.raises(DataError, match=r"\[4, 5\] slots but row_length is 4"):
        CountBuckets(4, (((TEXT, 4),), ((TEXT, 4), (IMAGE, 1))))


def test_a_reopened_row_goes_on_where_it_was():
    first_fit = FirstFit(CountBuckets.single(((TEXT, 10),)))
    first_fit.reopen([document((TEXT, 7))])
    assert first_fit.add(document((TEXT, 4))) == []
    assert first_fit.add(document((TEXT, 3))) == []
    assert [len(row.documents) for row in first_fit.finish()] == [2, 1]
