"""Records as interleaved documents, and batches of rows that hold several."""

import collections
import contextlib
import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from unimod_jax.data import (
    DataError,
    DocumentChoices,
    PackedRows,
    PartLengths,
    Record,
    Speech,
    Text,
    TextTokenizer,
    Vocabulary,
    empty_rows,
    first_rows,
    image_ids,
    interleave,
    part_lengths,
    pixels_to_codes,
    training_batches,
)
from unimod_jax.data.image_codec import pixels_to_patches
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedLayout,
    SpecialTokens,
    Stream,
)

SPECIAL = SpecialTokens()

STREAMS = (Stream.of(TEXT), Stream.of(IMAGE), Stream.of(SPEECH))
LAYOUT = InterleavedLayout(
    "interleaved",
    STREAMS,
    ((TEXT, 2 * 18), (IMAGE, 2 * 64), (SPEECH, 2 * 5)),
    shuffled=True,
)
TRANSFUSION = InterleavedLayout(
    "interleaved",
    STREAMS,
    ((TEXT, 2 * 18), (IMAGE, 2 * 16), (SPEECH, 2 * 5)),
    patches_per_image=16,
    patch_size=4,
    bidirectional=(IMAGE,),
    shuffled=True,
    captioned_time=0.5,
)


@pytest.fixture(scope="module")
def spoken(digits):
    return dataclasses.replace(digits, speech_units=8, speech_tokens=5)


@pytest.fixture(scope="module")
def spoken_tokenizer(spoken, tokenizer):
    return TextTokenizer(tokenizer.pieces, Vocabulary.of(spoken))


@pytest.fixture(scope="module")
def records(train_records):
    """Eight records, every second one of which is spoken."""
    return [
        dataclasses.replace(
            record, parts=(*record.parts, Speech((7, 0, index)))[: 2 + index % 2]
        )
        for index, record in enumerate(train_records[:8])
    ]


def image_of(record):
    """The pixels of a record's only image."""
    (image,) = record.images
    return image.pixels


@pytest.fixture(scope="module")
def interleaved(spoken, spoken_tokenizer):
    """Makes a record an interleaved document with the randomness of a seed."""

    def make(record, seed, layout=LAYOUT):
        lengths = part_lengths(record, layout, spoken, spoken_tokenizer)
        rng = np.random.default_rng(seed)
        choices = DocumentChoices.drawn(lengths, layout.shuffled, rng)
        return interleave(record, layout, spoken, spoken_tokenizer, choices)

    return make


def test_a_document_is_caption_image_and_speech_in_any_order(
    records, spoken, spoken_tokenizer, interleaved
):
    record, vocabulary = records[3], spoken_tokenizer.vocabulary
    codes = pixels_to_codes(image_of(record), spoken) + vocabulary.image_start
    units = [vocabulary.speech_start + unit for unit in record.part("speech").units]
    image = [SPECIAL.begin_image, *codes.tolist(), SPECIAL.end_image]
    speech = [SPECIAL.begin_speech, *units, SPECIAL.end_speech]
    captions = [spoken_tokenizer.encode(text) for text in record.texts]
    begin, end = [SPECIAL.begin], [SPECIAL.end]
    possible = {
        tuple(itertools.chain(begin, *order, end)): order
        for caption in captions
        for order in itertools.permutations((caption, image, speech))
    }
    met = set()
    for seed in range(60):
        document = interleaved(record, seed)
        ids = tuple(token for span in document.spans for token in span.tokens)
        assert ids in possible
        met.add(tuple(len(part) for part in possible[ids]))
        # Markers are text.
        assert document.num_tokens()[IMAGE] == 64
        assert document.num_tokens()[SPEECH] == 3
    assert len(met) >= 6


def test_a_silent_record_has_no_speech(records, interleaved):
    assert set(interleaved(records[2], 0).num_tokens()) == {TEXT, IMAGE}


def test_an_image_before_its_caption_is_noised_less(records, spoken, interleaved):
    met = set()
    for seed in range(20):
        spans = interleaved(records[3], seed, TRANSFUSION).spans
        place = next(i for i, span in enumerate(spans) if span.modality == IMAGE)
        markers = SPECIAL.ids
        caption = next(
            i
            for i, span in enumerate(spans)
            if span.modality == TEXT and not markers & set(span.tokens)
        )
        np.testing.assert_array_equal(
            spans[place].patches, pixels_to_patches(image_of(records[3]), spoken)
        )
        assert spans[place].bidirectional
        assert spans[place].largest_time == (0.5 if place < caption else 1.0)
        met.add(place < caption)
    assert met == {False, True}


def test_parts_keep_their_reading_order_unless_they_are_shuffled(
    records, interleaved, spoken_tokenizer
):
    first, second = records[1], records[2]
    parts = (*first.parts, Text(("seven",)), *second.images)
    layout = dataclasses.replace(LAYOUT, shuffled=False)
    document = interleaved(Record(parts, "many"), 3, layout)
    ids = [token for span in document.spans for token in span.tokens]
    seven = spoken_tokenizer.encode("seven")
    markers = [token for token in ids if token in SPECIAL.ids]
    image = [SPECIAL.begin_image, SPECIAL.end_image]
    speech = [SPECIAL.begin_speech, SPECIAL.end_speech]
    assert markers == [SPECIAL.begin, *image, *speech, *image, SPECIAL.end]
    start = ids.index(SPECIAL.end_speech) + 1
    assert ids[start : start + len(seven) + 1] == [*seven, SPECIAL.begin_image]
    assert document.name == "many"


def test_lengths_are_those_of_the_document_and_no_image_is_decoded(
    records, spoken, spoken_tokenizer
):
    def refuse():
        raise AssertionError("an image was decoded")

    image, captions, speech = records[3].parts
    unread = dataclasses.replace(image, picture=refuse)
    record = Record((unread, captions, speech), "unread")
    words = tuple(len(spoken_tokenizer.encode(text)) for text in captions.texts)
    arguments = spoken, spoken_tokenizer
    for layout, size in ((LAYOUT, 64), (TRANSFUSION, 16)):
        assert part_lengths(record, layout, *arguments) == (
            PartLengths(IMAGE, (size,)),
            PartLengths(TEXT, words),
            PartLengths(SPEECH, (3,)),
        )
    lined = dataclasses.replace(LAYOUT, line_length=16)
    assert part_lengths(record, lined, *arguments)[0].lengths == (64 + 4,)
    PackedRows([record] * 3, LAYOUT, *arguments).filling()


def test_a_part_that_rows_have_no_slots_for_is_refused_by_name(records, interleaved):
    silent = dataclasses.replace(LAYOUT, slots=LAYOUT.slots[:2])
    words = f"{records[3].key} has a part of speech, but rows of task 'interleaved'"
    with pytest.raises(DataError, match=words):
        interleaved(records[3], 0, silent)


def test_a_caption_that_is_longer_than_a_row_is_cut(records, spoken, spoken_tokenizer):
    text = " ".join(["seven"] * 90)
    long = Record((Text((text,)),), "long")
    rows = PackedRows([long], LAYOUT, spoken, spoken_tokenizer)
    assert rows.filling().rows == 3
    ids = [
        [token for token in rows[number].streams[TEXT].token_id_BT if token]
        for number in range(3)
    ]
    assert sorted(map(len, ids)) == [92 - 2 * 36, 36, 36]
    vocabulary = spoken_tokenizer.encode(text)
    assert sorted(itertools.chain(*ids)) == sorted(
        [SPECIAL.begin, *vocabulary, SPECIAL.end]
    )


@pytest.fixture
def batches(spoken, spoken_tokenizer, records):
    """Makes iterators of batches, and closes their threads at the end."""
    with contextlib.ExitStack() as stack:

        def begin(layout=LAYOUT, **share):
            endless = training_batches(
                spoken,
                {"interleaved": layout},
                {"interleaved": 4},
                records,
                spoken_tokenizer,
                **share,
            )
            return stack.enter_context(contextlib.closing(iter(endless)))

        yield begin


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_rows_hold_two_whole_records_each(batches, records, spoken, spoken_tokenizer):
    group = next(batches())["interleaved"]
    assert group.layout == LAYOUT and group.num_rows == 4
    image = group.streams[IMAGE]
    # Its document is where a token's window starts: two images, two documents.
    assert (image.window_start_BT[:, :64] == 0).all()
    assert (image.window_start_BT[:, 64:] > 64).all()
    image_start = spoken_tokenizer.vocabulary.image_start
    codes = {tuple(pixels_to_codes(image_of(r), spoken) + image_start) for r in records}
    assert {tuple(one) for one in image.token_id_BT.reshape(8, 64)} == codes


def test_an_epoch_has_every_record_and_all_its_speech(
    batches, records, spoken_tokenizer
):
    iterator = batches()
    groups = [next(iterator)["interleaved"] for _ in range(2)]  # sixteen documents
    units = collections.Counter(
        int(token) - spoken_tokenizer.vocabulary.speech_start
        for group in groups
        for token in group.streams[SPEECH].token_id_BT.ravel()
        if token
    )
    spoken = [part for r in records for part in r.parts if isinstance(part, Speech)]
    expected = collections.Counter(unit for part in spoken for unit in part.units)
    assert units == expected + expected


def test_interleaved_batches_resume_exactly(batches):
    original, resumed = batches(), batches()
    for _ in range(3):
        next(original)
    resumed.set_state(json.loads(json.dumps(original.get_state())))
    for _ in range(4):
        assert_equal(next(original), next(resumed))


def test_processes_share_interleaved_rows(batches):
    halves = [batches(process_index=i, process_count=2) for i in (0, 1)]
    together = jax.tree.map(
        lambda even, odd: np.stack([even, odd], 1).reshape(4, *even.shape[1:]),
        *(next(half) for half in halves),
    )
    assert_equal(together, next(batches()))


def test_continuous_rows_carry_patches_and_their_largest_times(batches):
    group = next(batches(TRANSFUSION))["interleaved"]
    assert group.patch_BNP.shape == (4, 32, 4)
    assert set(np.unique(group.largest_time_BN)) == {0.5, 1.0}
    assert not group.patch_time_BN.any()
    image = group.streams[IMAGE]
    np.testing.assert_array_equal(image.patch_index_BT, [list(range(32))] * 4)
    # Each image sees to its own end: sixteen patches share a window.
    for end in image.window_end_BT:
        assert len(set(end[:16])) == len(set(end[16:])) == 1 and end[0] < end[16]


def test_rows_without_chance_have_the_shapes_of_training(
    batches, spoken, spoken_tokenizer, records, text_to_image
):
    layouts = {"interleaved": LAYOUT, "text_to_image": text_to_image}
    rows = {"interleaved": 4, "text_to_image": 9}
    first = first_rows(spoken, layouts, rows, records, spoken_tokenizer)
    assert_equal(first, first_rows(spoken, layouts, rows, records, spoken_tokenizer))
    trained = next(batches())["interleaved"]
    for one, other in zip(
        jax.tree.leaves(first["interleaved"]), jax.tree.leaves(trained), strict=True
    ):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    # The ninth row is the first record again.
    images = first["text_to_image"].streams[IMAGE].token_id_BT
    np.testing.assert_array_equal(images[8], images[0])
    empty = empty_rows(layouts, spoken)
    assert jax.tree.structure(empty) == jax.tree.structure(first)
    assert (empty["interleaved"].streams[TEXT].position_BT == -1).all()
    assert empty["text_to_image"].num_rows == 1


def test_lines_of_codes_end_with_a_token_of_their_own(train_records, digits):
    vocabulary, image = Vocabulary.of(digits), image_of(train_records[0])
    levels = pixels_to_codes(image, digits)
    codes = levels + vocabulary.image_start
    assert image_ids(levels, vocabulary, 0) == codes.tolist()
    lines = np.array(image_ids(levels, vocabulary, 16)).reshape(4, 17)
    np.testing.assert_array_equal(lines[:, :16].ravel(), codes)
    np.testing.assert_array_equal(lines[:, 16], [SPECIAL.end_of_line] * 4)
