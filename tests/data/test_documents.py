"""Each segment gets what its name promises."""

import dataclasses

import jax
import numpy as np
import pytest

from unimod_jax.data import DataError, RowTemplates, document, fill, pixels_to_codes
from unimod_jax.data.image_codec import pixels_to_patches
from unimod_jax.layout import PADDING, TEXT, SegmentSpec, lay_out

LAYOUTS = ("text_to_image", "diffusion", "image_to_text", "text_only")


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.getfixturevalue(request.param)


def test_segments_are_filled_by_name(
    digits, train_records, tokenizer, text_to_image, image_to_text, text_only
):
    record, vocabulary = train_records[0], tokenizer.vocabulary
    special = vocabulary.special
    words = tokenizer.encode(record.captions[1])
    codes = (pixels_to_codes(record.image, digits) + vocabulary.image_start).tolist()
    start = {"begin": (special.begin,), "begin_image": (special.begin_image,)}
    image = start | {"image": codes, "end_image": (special.end_image,)}
    filled = [
        fill(record, layout, digits, tokenizer, caption=1).tokens
        for layout in (text_to_image, image_to_text, text_only)
    ]
    assert filled == [
        image | {"task": (special.text_to_image,), "prompt": words},
        image | {"task": (special.image_to_text,), "caption": [*words, special.end]},
        {
            "begin": (special.begin,),
            "task": (special.text_only,),
            "text": [*words, special.end],
        },
    ]


def test_a_continuous_image_is_patches(digits, train_records, tokenizer, diffusion):
    row = fill(train_records[0], diffusion, digits, tokenizer)
    assert "image" not in row.tokens
    np.testing.assert_array_equal(
        row.patch_NP, pixels_to_patches(train_records[0].image, digits)
    )


def test_a_dropped_prompt_is_empty(digits, train_records, tokenizer, text_to_image):
    row = fill(train_records[0], text_to_image, digits, tokenizer, drop_prompt=True)
    assert row.tokens["prompt"] == []


def test_unknown_images_and_captions_hold_their_positions(
    digits, train_records, tokenizer, text_to_image, diffusion, image_to_text
):
    vocabulary, image = tokenizer.vocabulary, train_records[0].image
    ids = tokenizer.encode("the digit 7")
    for layout in (text_to_image, diffusion):
        row = document(layout, digits, vocabulary, caption_ids=ids, image=None)
        group = lay_out(row, layout)
        held = group.streams["image"].position_BT
        np.testing.assert_array_equal(held, 6 + np.arange(len(held)))
        assert not group.streams["image"].token_id_BT.any()
        assert not group.patch_BNP.any()
    row = document(image_to_text, digits, vocabulary, caption_ids=None, image=image)
    assert row.tokens["caption"] == [PADDING] * 12
    group = lay_out(row, image_to_text)
    assert group.streams["text"].position_BT.max() == 79


def test_text_longer_than_its_slots_is_refused(digits, tokenizer, text_to_image):
    with pytest.raises(DataError, match=r"is 13 tokens .* 12 slots"):
        document(
            text_to_image,
            digits,
            tokenizer.vocabulary,
            caption_ids=[20] * 13,
            image=None,
        )


def test_an_image_of_another_size_than_the_layout_is_refused(
    digits, train_records, tokenizer, text_to_image
):
    segments = tuple(
        dataclasses.replace(segment, num_slots=63)
        if segment.name == "image"
        else segment
        for segment in text_to_image.segments
    )
    layout = dataclasses.replace(text_to_image, segments=segments)
    with pytest.raises(DataError, match=r"is 64 tokens .* 63 slots"):
        fill(train_records[0], layout, digits, tokenizer)


def test_an_unknown_segment_is_refused(digits, train_records, tokenizer, text_only):
    segments = (*text_only.segments, SegmentSpec("speech", TEXT, 3))
    layout = dataclasses.replace(text_only, segments=segments)
    with pytest.raises(DataError, match="'speech' of task 'text_only' has no content"):
        fill(train_records[0], layout, digits, tokenizer)


def test_templates_lay_out_exactly_as_lay_out(digits, train_records, tokenizer, layout):
    rows = [
        fill(
            train_records[row],
            layout,
            digits,
            tokenizer,
            caption=row % 4,
            drop_prompt=row % 5 == 0,
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
