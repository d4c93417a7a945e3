"""A plan sends every token once, keeps whole what is whole, and is known by number."""

import collections
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.data.conftest import SPECIAL
from tests.layout.rows_in_sequence_order import (
    in_order,
    matrix,
    stored_visibility,
    visibility,
)
from unimod_jax.data import (
    DataError,
    DocumentChoices,
    PackingPlan,
    PartLengths,
    plan_rows,
)
from unimod_jax.data.packing_plan import Piece, Unit, piece_of, plan_seed, units_of
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    Stream,
    lay_out_documents,
)

SLOTS = ((TEXT, 12), (IMAGE, 8), (SPEECH, 6))
STREAMS = (Stream.of(TEXT), Stream.of(IMAGE), Stream.of(SPEECH))
LAYOUT = InterleavedLayout("interleaved", STREAMS, SLOTS)


def a_part(longest_text):
    text = st.lists(st.integers(1, longest_text), min_size=1, max_size=3)
    return st.one_of(
        text.map(lambda lengths: PartLengths(TEXT, tuple(lengths))),
        st.sampled_from([2, 4, 8]).map(lambda n: PartLengths(IMAGE, (n,))),
        st.integers(1, 6).map(lambda n: PartLengths(SPEECH, (n,))),
    )


def collections_of(longest_text):
    """The lengths of the parts of some documents."""
    documents = st.lists(a_part(longest_text), min_size=1, max_size=5).map(tuple)
    return st.lists(documents, min_size=1, max_size=20)


def plan_of(lengths, **options):
    names = [f"document {number}" for number in range(len(lengths))]
    options = {"seed": 0, "shuffled_parts": True} | options
    return PackingPlan(lengths, names, SLOTS, **options)


def rows_of_epoch(plan, epoch=0):
    """All rows of an epoch, and those before it left out."""
    rows = (plan.row(number) for number in itertools.count())
    since = itertools.dropwhile(lambda row: row[0] < epoch, rows)
    return [pieces for _, pieces in itertools.takewhile(lambda r: r[0] == epoch, since)]


def document_of(units, number):
    """A document of these units, all of its tokens different."""
    ids = itertools.count(1000 * number)

    def span(modality, count):
        return Span(modality, tuple(itertools.islice(ids, count)))

    spans = []
    for unit in units:
        if unit.modality == TEXT:
            spans.append(span(TEXT, unit.text))
        else:
            spans += [span(TEXT, 1), span(unit.modality, unit.enclosed), span(TEXT, 1)]
    return InterleavedDocument(tuple(spans), f"document {number}")


def cut(plan, lengths, epoch=0):
    """Each row of an epoch as the documents that stand in it, and the whole ones."""
    whole = [
        document_of(units_of(parts, plan.choices(epoch, number)), number)
        for number, parts in enumerate(lengths)
    ]
    rows = [
        [piece_of(whole[piece.document], piece) for piece in pieces]
        for pieces in rows_of_epoch(plan, epoch)
    ]
    return rows, whole


def tokens_of(*documents):
    return [
        token
        for document in documents
        for span in document.spans
        for token in span.tokens
    ]


@hypothesis.settings(max_examples=100)
@hypothesis.given(collections_of(40), st.integers(0, 3), st.booleans())
def test_every_token_of_every_document_stands_in_one_row_once(lengths, seed, shuffled):
    plan = plan_of(lengths, seed=seed, shuffled_parts=shuffled)
    for epoch in (0, 1):
        rows, whole = cut(plan, lengths, epoch)
        sent = collections.Counter(token for row in rows for token in tokens_of(*row))
        assert sent == collections.Counter(tokens_of(*whole))
        # And in order within each document, whichever rows its pieces are in.
        pieces = collections.defaultdict(list)
        for piece in itertools.chain(*rows_of_epoch(plan, epoch)):
            pieces[piece.document].append((piece.start, piece.end))
        for number, document in enumerate(whole):
            ranges = sorted(pieces[number])
            assert ranges[0][0] == 0 and ranges[-1][1] == len(tokens_of(document))
            assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))


@hypothesis.settings(max_examples=100)
@hypothesis.given(collections_of(40), st.integers(0, 3))
def test_no_image_or_utterance_is_cut_or_parted_from_its_markers(lengths, seed):
    rows, whole = cut(plan_of(lengths, seed=seed), lengths)
    together = {
        (first.tokens[-1], *span.tokens, last.tokens[0])
        for document in whole
        for first, span, last in zip(
            document.spans, document.spans[1:], document.spans[2:], strict=False
        )
        if span.modality != TEXT
    }
    found = set()
    for document in itertools.chain(*rows):
        ids = tokens_of(document)
        for span in document.spans:
            if span.modality != TEXT:
                start = ids.index(span.tokens[0])
                found.add(tuple(ids[start - 1 : start + len(span.tokens) + 1]))
    assert found == together


@hypothesis.settings(max_examples=100)
@hypothesis.given(collections_of(40), st.integers(0, 3))
def test_rows_never_exceed_their_slots(lengths, seed):
    plan = plan_of(lengths, seed=seed)
    rows, _ = cut(plan, lengths)
    total = collections.Counter()
    for row in rows:
        assert row
        laid_out = lay_out_documents(row, LAYOUT)  # refuses what does not fit
        for modality, slots in SLOTS:
            held = int((laid_out.streams[modality].position_BT >= 0).sum())
            assert held <= slots
            total[modality] += held
    filling = plan.filling()
    assert filling.rows == len(rows)
    assert collections.Counter(filling.tokens) == +total
    assert filling.slots == {name: count * len(rows) for name, count in SLOTS}


@hypothesis.settings(max_examples=50)
@hypothesis.given(collections_of(40), st.integers(0, 3), st.data())
def test_any_row_is_known_by_its_number_alone(lengths, seed, data):
    plan = plan_of(lengths, seed=seed)
    count = len(rows_of_epoch(plan)) + len(rows_of_epoch(plan, 1))
    rows = [plan.row(number) for number in range(count + 3)]
    asked = data.draw(st.permutations(range(count + 3)))
    again = plan_of(lengths, seed=seed)
    assert [again.row(number) for number in asked] == [rows[number] for number in asked]
    alone = asked[0]
    assert plan_of(lengths, seed=seed).row(alone) == rows[alone]


def test_seeds_and_epochs_have_orders_of_their_own():
    lengths = [(PartLengths(TEXT, (3, 4, 5)), PartLengths(IMAGE, (2,)))] * 30
    plan = plan_of(lengths)
    assert rows_of_epoch(plan) == rows_of_epoch(plan_of(lengths))
    assert rows_of_epoch(plan, 1) == rows_of_epoch(plan_of(lengths), 1)
    assert rows_of_epoch(plan, 1) != rows_of_epoch(plan)
    assert rows_of_epoch(plan_of(lengths, seed=1)) != rows_of_epoch(plan)
    drawn = [plan.choices(epoch, 3) for epoch in range(40)]
    assert {choices.texts for choices in drawn} == {(0,), (1,), (2,)}
    assert {choices.order for choices in drawn} == {(0, 1), (1, 0)}
    seeds = {plan_seed(seed, task) for seed in (0, 1) for task in ("a", "b")}
    assert len(seeds) == 4


def test_parts_keep_their_reading_order_unless_they_are_shuffled():
    lengths = [(PartLengths(TEXT, (3,)), PartLengths(IMAGE, (2,)))] * 5
    plan = plan_of(lengths, shuffled_parts=False)
    assert {plan.choices(0, number).order for number in range(5)} == {(0, 1)}


def test_documents_are_tried_in_their_own_order_where_chance_is_not_wanted():
    lengths = [(PartLengths(TEXT, (10,)),)] * 4
    plan = plan_of(lengths, in_order=True)
    for epoch in (0, 1):
        first = [pieces[0].document for pieces in rows_of_epoch(plan, epoch)]
        assert first == [0, 1, 2, 3]


# --- First fit ------------------------------------------------------------------------


@hypothesis.settings(max_examples=100)
@hypothesis.given(collections_of(40))
def test_no_row_is_begun_while_an_open_one_has_room(lengths):
    order = DocumentChoices((0,) * 5, tuple(range(5)))
    units = [
        units_of(parts, DocumentChoices(order.texts, order.order[: len(parts)]))
        for parts in lengths
    ]
    names = [f"document {number}" for number in range(len(units))]
    rows = plan_rows(list(enumerate(units)), SLOTS, names, open_rows=10_000)
    whole = [document_of(each, number) for number, each in enumerate(units)]
    counts = [
        [piece_of(whole[piece.document], piece).num_tokens() for piece in row]
        for row in rows
    ]

    def has_room(row, piece):
        held = sum((collections.Counter(count) for count in row), collections.Counter())
        return all(held[n] + piece.get(n, 0) <= slots for n, slots in SLOTS)

    # Of two rows the one begun later began with what did not fit the other.
    for one, other in itertools.combinations(counts, 2):
        assert not (has_room(one, other[0]) and has_room(other, one[0]))


def packed(counts, slots=((TEXT, 10),), **options):
    """The documents of each row, by number, for texts of these lengths."""
    documents = [(number, [Unit(count)]) for number, count in enumerate(counts)]
    names = [f"document {number}" for number in range(len(counts))]
    rows = plan_rows(documents, slots, names, **options)
    return [[piece.document for piece in row] for row in rows]


def test_documents_go_into_the_first_open_row_they_fit():
    assert packed([7, 6, 3, 4, 6]) == [[0, 2], [1, 3], [4]]
    assert packed([7, 6, 3, 4, 6], open_rows=1) == [[0], [1, 2], [3, 4]]
    # The fullest row is closed where too many are open.
    assert packed([7, 6, 5, 3, 4], open_rows=2) == [[0], [1, 3], [2, 4]]


def test_long_text_is_cut_where_a_row_is_full():
    rows = plan_rows([(0, [Unit(25)])], ((TEXT, 10),), ["document 0"])
    assert rows == [(Piece(0, 0, 10),), (Piece(0, 10, 20),), (Piece(0, 20, 25),)]


def test_images_stay_with_their_markers_when_text_is_cut():
    # The image with both markers does not fit beside three words.
    units = [Unit(3), Unit(2, IMAGE, 2), Unit(2)]
    rows = plan_rows([(0, units)], ((TEXT, 4), (IMAGE, 2)), ["document 0"])
    assert sorted(rows) == [(Piece(0, 0, 3),), (Piece(0, 3, 9),)]


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        (((TEXT, 4), (IMAGE, 8)), "scan-0007 has 9 tokens of image .* 8 slots"),
        (((TEXT, 1), (IMAGE, 9)), "9 slots for them beside 1 for text"),
        (((TEXT, 4),), "a row has 0 slots for them"),
    ],
)
def test_an_image_larger_than_a_row_is_refused_naming_the_record(slots, words):
    lengths = [(PartLengths(TEXT, (3,)),), (PartLengths(IMAGE, (9,)),)]
    names = ["scan-0001", "scan-0007"]
    plan = PackingPlan(lengths, names, slots, seed=0, shuffled_parts=False)
    for reached in (plan.filling, lambda: plan.row(0)):
        with pytest.raises(DataError, match=words) as error:
            reached()
        assert "\n" not in str(error.value)


def test_the_filling_says_what_is_wasted():
    plan = plan_of([(PartLengths(TEXT, (4,)), PartLengths(IMAGE, (2,)))])
    filling = plan.filling()
    assert (filling.rows, filling.tokens) == (1, {TEXT: 8, IMAGE: 2})
    assert filling.share_of(TEXT) == 8 / 12
    assert filling.share_of(SPEECH) == 0.0
    assert filling.share == 10 / 26
    assert "1 rows an epoch, 38.5% of their slots filled (text 66.7%" in str(filling)


# --- A document of many parts, by hand ------------------------------------------------

# Begin and the text a; one image; b; two images; c and the end. Images are two codes.
PARTS = (
    PartLengths(TEXT, (1,)),
    PartLengths(IMAGE, (2,)),
    PartLengths(TEXT, (2,)),
    PartLengths(IMAGE, (2,)),
    PartLengths(IMAGE, (2,)),
    PartLengths(TEXT, (1,)),
)
READING = DocumentChoices(texts=(0, 0, 0), order=(0, 1, 2, 3, 4, 5))


def pictured():
    """The document of PARTS, its images seeing themselves."""
    begin, end = (SPECIAL.begin,), (SPECIAL.end,)

    def image(*codes):
        around = ((SPECIAL.begin_image,), (SPECIAL.end_image,))
        return Span(TEXT, around[0]), Span(IMAGE, codes, True), Span(TEXT, around[1])

    spans = (
        *(Span(TEXT, begin), Span(TEXT, (20,))),
        *image(60, 61),
        Span(TEXT, (21, 22)),
        *(*image(62, 63), *image(64, 65)),
        *(Span(TEXT, (23,)), Span(TEXT, end)),
    )
    return InterleavedDocument(spans, "scan-0007")


IDS = [1, 20, 3, 60, 61, 4, 21, 22, 3, 62, 63, 4, 3, 64, 65, 4, 23, 2]
WHOLE = matrix(
    "10 0 00 0 00 0 00 0 0 00 0 00",
    "11 0 00 0 00 0 00 0 0 00 0 00",
    "11 1 00 0 00 0 00 0 0 00 0 00",
    "11 1 11 0 00 0 00 0 0 00 0 00",
    "11 1 11 0 00 0 00 0 0 00 0 00",
    "11 1 11 1 00 0 00 0 0 00 0 00",
    "11 1 11 1 10 0 00 0 0 00 0 00",
    "11 1 11 1 11 0 00 0 0 00 0 00",
    "11 1 11 1 11 1 00 0 0 00 0 00",
    "11 1 11 1 11 1 11 0 0 00 0 00",
    "11 1 11 1 11 1 11 0 0 00 0 00",
    "11 1 11 1 11 1 11 1 0 00 0 00",
    "11 1 11 1 11 1 11 1 1 00 0 00",
    "11 1 11 1 11 1 11 1 1 11 0 00",
    "11 1 11 1 11 1 11 1 1 11 0 00",
    "11 1 11 1 11 1 11 1 1 11 1 00",
    "11 1 11 1 11 1 11 1 1 11 1 10",
    "11 1 11 1 11 1 11 1 1 11 1 11",
)


def laid_out(slots):
    """The rows that a plan makes of the document in these slots."""
    plan = PackingPlan([PARTS], ["scan-0007"], slots, seed=0, shuffled_parts=False)
    assert plan.choices(0, 0) == READING
    layout = InterleavedLayout("interleaved", STREAMS[:2], slots)
    rows = rows_of_epoch(plan)
    pieces = [[piece_of(pictured(), piece) for piece in row] for row in rows]
    return rows, [lay_out_documents(documents, layout) for documents in pieces]


def assert_row(row, ids, seen, targets):
    assert in_order(row, "token_id_BT").tolist() == ids
    held = in_order(row, "position_BT")
    np.testing.assert_array_equal(held, np.arange(len(ids)))
    np.testing.assert_array_equal(visibility(row), seen)
    assert stored_visibility(row).sum() == seen.sum()
    modality = in_order(row, "target_modality_BT")
    target = np.where(modality >= 0, in_order(row, "target_id_BT"), -1)
    assert target.tolist() == targets


def test_a_document_of_many_parts_is_the_row_written_by_hand():
    rows, (row,) = laid_out(((TEXT, 14), (IMAGE, 8)))
    assert rows == [(Piece(0, 0, 18),)]
    assert_row(row, IDS, WHOLE, [*IDS[1:], -1])
    # Codes stand in the image stream in the order of the document.
    assert list(row.streams[IMAGE].token_id_BT) == [*range(60, 66), 0, 0]
    assert list(row.streams[IMAGE].position_BT) == [3, 4, 9, 10, 13, 14, -1, -1]
    assert list(row.streams[TEXT].position_BT[:12]) == [
        *(0, 1, 2, 5, 6, 7, 8, 11, 12, 15, 16, 17)
    ]


def test_a_document_that_is_cut_is_a_context_in_each_row():
    rows, (first, second) = laid_out(((TEXT, 8), (IMAGE, 4)))
    # The third image has no room beside two; the text after it goes along.
    assert rows == [(Piece(0, 0, 12),), (Piece(0, 12, 18),)]
    assert_row(first, IDS[:12], WHOLE[:12, :12], [*IDS[1:12], -1])
    expected = matrix(
        "1 00 0 00",
        "1 11 0 00",
        "1 11 0 00",
        "1 11 1 00",
        "1 11 1 10",
        "1 11 1 11",
    )
    # Nothing predicts the first token, and positions begin again.
    assert_row(second, IDS[12:], expected, [*IDS[13:], -1])


def test_text_may_be_cut_within_and_images_not():
    # Five texts fit, begin, a, the markers and half of b; then one image to a row.
    rows, (first, second, third) = laid_out(((TEXT, 5), (IMAGE, 2)))
    assert rows == [(Piece(0, 0, 7),), (Piece(0, 7, 12),), (Piece(0, 12, 18),)]
    assert_row(first, IDS[:7], WHOLE[:7, :7], [*IDS[1:7], -1])
    expected = matrix("1 0 00 0", "1 1 00 0", "1 1 11 0", "1 1 11 0", "1 1 11 1")
    assert_row(second, IDS[7:12], expected, [*IDS[8:12], -1])
    assert in_order(third, "token_id_BT").tolist() == IDS[12:]
