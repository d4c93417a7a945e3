"""Each segment gets what its name promises."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data.conftest import BEGIN, SIZES, STREAMS, with_segment
from unimod_jax.data import (
    Choices,
    DataError,
    Held,
    Image,
    Record,
    RowTemplates,
    Speech,
    Text,
    TextTokenizer,
    Vocabulary,
    document,
    fill,
    pixels_to_codes,
    record_values,
)
from unimod_jax.data.image_codec import pixels_to_patches
from unimod_jax.layout import (
    IMAGE,
    PADDING,
    SPEECH,
    TASK_IDS,
    TEXT,
    PartSizes,
    Piece,
    Stream,
    Task,
    lay_out,
    rows_of_task,
)

LAYOUTS = ("text_to_image", "diffusion", "image_to_text", "text_only")


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.getfixturevalue(request.param)


def test_segments_are_filled_by_name(
    digits, train_records, tokenizer, text_to_image, image_to_text, text_only
):
    record, vocabulary = train_records[0], tokenizer.vocabulary
    special = vocabulary.special
    words = tokenizer.encode(record.texts[1])
    levels = pixels_to_codes(record.images[0].pixels, digits)
    codes = (levels + vocabulary.image_start).tolist()
    start = {"begin": (special.begin,), "begin_image": (special.begin_image,)}
    image = start | {"image": codes, "end_image": (special.end_image,)}
    filled = [
        fill(record, layout, digits, tokenizer, Choices(texts=(1,))).tokens
        for layout in (text_to_image, image_to_text, text_only)
    ]
    assert filled == [
        image | {"task": (TASK_IDS[3],), "prompt": words},
        image | {"task": (TASK_IDS[4],), "caption": [*words, special.end]},
        {
            "begin": (special.begin,),
            "task": (TASK_IDS[5],),
            "text": [*words, special.end],
        },
    ]


def test_a_continuous_image_is_patches(digits, train_records, tokenizer, diffusion):
    row = fill(train_records[0], diffusion, digits, tokenizer)
    assert "image" not in row.tokens
    np.testing.assert_array_equal(
        row.patch_NP, pixels_to_patches(train_records[0].images[0].pixels, digits)
    )


def test_a_dropped_prompt_is_empty_and_a_caption_is_never_dropped(
    digits, train_records, tokenizer, text_to_image, image_to_text
):
    dropped = Choices(drop=True)
    row = fill(train_records[0], text_to_image, digits, tokenizer, dropped)
    assert row.tokens["prompt"] == []
    row = fill(train_records[0], image_to_text, digits, tokenizer, dropped)
    assert row == fill(train_records[0], image_to_text, digits, tokenizer)


def test_unknown_images_and_captions_hold_their_positions(
    digits, train_records, tokenizer, text_to_image, diffusion, image_to_text
):
    for layout in (text_to_image, diffusion):
        row = document({"prompt": "the digit 7"}, layout, digits, tokenizer)
        group = lay_out(row, layout)
        held = group.streams["image"].position_BT
        np.testing.assert_array_equal(held, 6 + np.arange(len(held)))
        assert not group.streams["image"].token_id_BT.any()
        assert not group.patch_BNP.any()
    (image,) = train_records[0].images
    row = document({"image": image}, image_to_text, digits, tokenizer)
    assert row.tokens["caption"] == [PADDING] * 12
    group = lay_out(row, image_to_text)
    assert group.streams["text"].position_BT.max() == 79


def test_text_longer_than_its_slots_is_refused(digits, tokenizer, text_to_image):
    with pytest.raises(DataError, match=r"is 13 tokens .* 12 slots"):
        document({"prompt": " ".join(["seven"] * 13)}, text_to_image, digits, tokenizer)


def test_an_image_of_another_size_than_the_layout_is_refused(
    digits, train_records, tokenizer, text_to_image
):
    layout = with_segment(text_to_image, "image", num_slots=63)
    with pytest.raises(DataError, match=r"is 64 tokens .* 63 slots"):
        fill(train_records[0], layout, digits, tokenizer)


# --- Records of other parts -----------------------------------------------------------

SPOKEN = (Stream.of(TEXT), Stream.of(IMAGE), Stream.of(SPEECH))


def row_of(*pieces, sizes=SIZES, streams=STREAMS):
    return rows_of_task(Task("asking", (BEGIN, *pieces)), sizes, streams)


def asked(train_records, *texts):
    """A record of an image and texts, each (name, alternatives...)."""
    (image,) = train_records[0].images
    parts = (Text(tuple(alternatives), name) for name, *alternatives in texts)
    return Record((image, *parts), "scan-0007")


def test_pieces_show_the_parts_that_they_name(digits, train_records, tokenizer):
    record = asked(
        train_records,
        ("question", "which digit", "the digit"),
        ("answer", "seven"),
        ("question", "the number"),
        ("answer", "7"),
    )
    layout = row_of(
        Piece("asked", part="question", wording="a {} in an image"),
        Piece("first", part="answer", written=True),
        Piece("again", part="question", occurrence=1),
        Piece("second", part="answer", occurrence=1, written=True),
    )
    row = fill(record, layout, digits, tokenizer, Choices(texts=(1, 0, 0, 0)))
    end = tokenizer.vocabulary.special.end
    assert row.tokens == {
        "begin": BEGIN.ids,
        "asked": tokenizer.encode("a the digit in an image"),
        "first": [*tokenizer.encode("seven"), end],
        "again": tokenizer.encode("the number"),
        "second": [*tokenizer.encode("7"), end],
    }


def test_a_missing_part_is_empty_or_has_a_default_or_is_refused_by_name(
    digits, train_records, tokenizer
):
    record = asked(train_records, ("text", "seven"))
    question = Piece("question", part="question", wording="the {}")

    def tokens(**changes):
        layout = row_of(dataclasses.replace(question, **changes))
        return fill(record, layout, digits, tokenizer).tokens["question"]

    assert tokens(optional=True) == []
    assert tokens(default="digit") == tokenizer.encode("the digit")
    words = r"scan-0007 has no part 'question', which .* has \['image', 'text'\]"
    with pytest.raises(DataError, match=words):
        tokens()
    with pytest.raises(DataError, match="has no part 'text' number 2"):
        tokens(part="text", occurrence=1)


def test_a_part_of_another_modality_is_refused(digits, train_records, tokenizer):
    record = asked(train_records, ("text", "seven"))
    layout = row_of(Piece("prompt", part="image"))
    with pytest.raises(DataError, match="'image' of scan-0007 is image, but the piece"):
        fill(record, layout, digits, tokenizer)


def test_every_image_of_a_row_is_its_own(digits, train_records, tokenizer):
    first, second = (record.images[0] for record in train_records[:2])
    record = Record((first, Image(second.picture, "negative"), first), "scan-0007")
    pieces = (
        Piece("image", IMAGE, part="image"),
        Piece("negative", IMAGE, part="negative", written=True),
    )
    codes = fill(record, row_of(*pieces), digits, tokenizer).tokens
    start = tokenizer.vocabulary.image_start
    for name, image in (("image", first), ("negative", second)):
        expected = start + pixels_to_codes(image.pixels, digits)
        assert codes[name] == expected.tolist()
    sizes = PartSizes(12, image_patches=16, continuous=True, patch_size=4)
    row = fill(record, row_of(*pieces, sizes=sizes), digits, tokenizer)
    patches = [pixels_to_patches(image.pixels, digits) for image in (first, second)]
    np.testing.assert_array_equal(row.patch_NP, np.concatenate(patches))


def test_speech_is_units_and_ends_where_it_is_written(digits, tokenizer):
    config = dataclasses.replace(digits, speech_units=8, speech_tokens=5)
    vocabulary = Vocabulary.of(config)
    spoken = TextTokenizer(tokenizer.pieces, vocabulary)
    record = Record((Speech((7, 0, 3)),), "scan-0007")
    layout = row_of(
        Piece("heard", SPEECH, part="speech"),
        Piece("said", SPEECH, part="speech", written=True),
        sizes=dataclasses.replace(SIZES, speech_units=3),
        streams=SPOKEN,
    )
    units = [vocabulary.speech_start + unit for unit in (7, 0, 3)]
    row = fill(record, layout, config, spoken)
    assert row.tokens["heard"] == units
    assert row.tokens["said"] == [*units, vocabulary.special.end_speech]
    long = Record((Speech((7, 0, 3, 1)),), "scan-0008")
    with pytest.raises(DataError, match=r"speech of scan-0008 is 4 .*speech_tokens"):
        fill(long, layout, config, spoken)


def test_what_nothing_is_known_of_is_open_empty_or_its_default(digits, tokenizer):
    layout = row_of(
        Piece("given", part="text"),
        Piece("question", part="question", default="the digit"),
        Piece("image", IMAGE, part="image"),
        Piece("caption", part="text", written=True),
    )
    row = document({}, layout, digits, tokenizer)
    assert row.tokens == {
        "begin": BEGIN.ids,
        "given": [],
        "question": tokenizer.encode("the digit"),
        "image": [PADDING] * 64,
        "caption": [PADDING] * 13,
    }
    empty = document({"caption": Held.NOTHING}, layout, digits, tokenizer)
    assert empty.tokens["caption"] == []


def test_what_a_record_fills_is_known_without_tokens(train_records, image_to_text):
    record = train_records[0]
    values = record_values(record, image_to_text, Choices(texts=(2,)))
    assert values == {"image": record.images[0], "caption": record.texts[2]}


def test_choices_are_one_of_each_text_and_no_option_shifts_anothers():
    record = Record((Text(("a", "b", "c")), Text(("d",)), Text(("e", "f"))), "r")
    drawn = {
        share: [
            Choices.drawn(record, share, np.random.default_rng(seed))
            for seed in range(60)
        ]
        for share in (0.0, 0.5, 1.0)
    }
    assert {one.texts for one in drawn[0.5]} == {
        (first, 0, last) for first in range(3) for last in range(2)
    }
    assert {one.drop for one in drawn[0.5]} == {False, True}
    for share, dropped in ((0.0, False), (1.0, True)):
        assert {one.drop for one in drawn[share]} == {dropped}
        assert [one.texts for one in drawn[share]] == [o.texts for o in drawn[0.5]]


# --- Whole batches --------------------------------------------------------------------


def test_templates_lay_out_exactly_as_lay_out(digits, train_records, tokenizer, layout):
    rows = [
        fill(
            train_records[row],
            layout,
            digits,
            tokenizer,
            Choices(texts=(row % 4,), drop=row % 5 == 0),
        )
        for row in range(20)
    ]
    plain = [lay_out(row, layout) for row in rows]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *plain)
    templates = RowTemplates(layout)
    for _ in range(2):  # with templates met for the first time, and again
        stacked = templates.stack(rows)
        assert jax.tree.structure(stacked) == jax.tree.structure(expected)
        jax.tree.map(np.testing.assert_array_equal, stacked, expected)
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(stacked)]
        assert dtypes == [leaf.dtype for leaf in jax.tree.leaves(expected)]
