"""Who sees whom in the rows of every task, against matrices written by hand.

Texts are shorter than their slots and rows have empty ends, so padding is part of each
case; interleaved rows hold two documents. Storage changes nothing.
"""

import dataclasses

import numpy as np
import pytest

from tests.layout.rows_in_sequence_order import (
    in_order,
    matrix,
    stored_visibility,
    visibility,
)
from tests.task_rows import layouts
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    Document,
    InterleavedDocument,
    PartSizes,
    Span,
    SpecialTokens,
    Stream,
    lay_out,
    lay_out_documents,
)
from unimod_jax.objectives import (
    ImageDiffusion,
    MaskedImage,
    NextToken,
)

SPECIAL = SpecialTokens()

STORAGE = {
    "one stream": (Stream.of(TEXT, IMAGE),),
    "two streams": (Stream.of(TEXT), Stream.of(IMAGE)),
    "image first": (Stream.of(IMAGE), Stream.of(TEXT)),
}
SIZES = PartSizes(text_tokens=3, image_codes=4, image_patches=2, patch_size=1)
LINED = dataclasses.replace(SIZES, image_line=2)
SLOTS = ((TEXT, 8), (IMAGE, 8))
LINE_END = SPECIAL.end_of_line
LINES = [20, 21, LINE_END, 22, 23, LINE_END]
MARKERS = {
    "task": [11],
    "begin": [SPECIAL.begin],
    "end": [SPECIAL.end],
    "begin_image": [SPECIAL.begin_image],
    "end_image": [SPECIAL.end_image],
}
# Two of three prompt slots, or three of four caption slots.
TEXTS = {"prompt": [12, 13], "caption": [12, 13, 2], "text": [12, 13, 2]}

TEXT_ONLY_ROW = matrix("1 000", "1 100", "1 110", "1 111")
NEXT_TOKEN = {
    # begin, prompt, begin_image, two lines of two codes and an end, end_image
    "text_to_image": matrix(
        "1 00 0 000 000 0",
        "1 10 0 000 000 0",
        "1 11 0 000 000 0",
        "1 11 1 000 000 0",
        "1 11 1 100 000 0",
        "1 11 1 110 000 0",
        "1 11 1 111 000 0",
        "1 11 1 111 100 0",
        "1 11 1 111 110 0",
        "1 11 1 111 111 0",
        "1 11 1 111 111 1",
    ),
    # begin, begin_image, two lines, end_image, caption
    "image_to_text": matrix(
        "10 000 000 0 000",
        "11 000 000 0 000",
        "11 100 000 0 000",
        "11 110 000 0 000",
        "11 111 000 0 000",
        "11 111 100 0 000",
        "11 111 110 0 000",
        "11 111 111 0 000",
        "11 111 111 1 000",
        "11 111 111 1 100",
        "11 111 111 1 110",
        "11 111 111 1 111",
    ),
    "text_only": TEXT_ONLY_ROW,
    # text, two lines of codes, text; then text and a picture of one line
    "interleaved": matrix(
        "10 000 000 0 00 00",
        "11 000 000 0 00 00",
        "11 100 000 0 00 00",
        "11 110 000 0 00 00",
        "11 111 000 0 00 00",
        "11 111 100 0 00 00",
        "11 111 110 0 00 00",
        "11 111 111 0 00 00",
        "11 111 111 1 00 00",
        "00 000 000 0 10 00",
        "00 000 000 0 11 00",
        "00 000 000 0 11 10",
        "00 000 000 0 11 11",
    ),
}
MASKED = {
    # task, begin, prompt, end; begin_image, codes and end_image see each other
    "text_to_image": matrix(
        "1 0 00 0 000000",
        "1 1 00 0 000000",
        "1 1 10 0 000000",
        "1 1 11 0 000000",
        "1 1 11 1 000000",
        *["1 1 11 1 111111"] * 6,
    ),
    # task, begin_image, codes, end_image are seen by all; begin and caption are causal
    "image_to_text": matrix(
        *["1 1 1111 1 0 000"] * 7,
        "1 1 1111 1 1 000",
        "1 1 1111 1 1 100",
        "1 1 1111 1 1 110",
        "1 1 1111 1 1 111",
    ),
    "text_only": TEXT_ONLY_ROW,
}
DIFFUSION = {
    # begin, prompt, begin_image, two patches, end_image
    "text_to_image": matrix(
        "1 00 0 00 0",
        "1 10 0 00 0",
        "1 11 0 00 0",
        "1 11 1 00 0",
        "1 11 1 11 0",
        "1 11 1 11 0",
        "1 11 1 11 1",
    ),
    # begin, begin_image, two patches, end_image, caption
    "image_to_text": matrix(
        "1 0 00 0 000",
        "1 1 00 0 000",
        "1 1 11 0 000",
        "1 1 11 0 000",
        "1 1 11 1 000",
        "1 1 11 1 100",
        "1 1 11 1 110",
        "1 1 11 1 111",
    ),
    "text_only": TEXT_ONLY_ROW,
    # text, image, text, image; then image, text
    "interleaved": matrix(
        "10 00 0 00 00 0",
        "11 00 0 00 00 0",
        "11 11 0 00 00 0",
        "11 11 0 00 00 0",
        "11 11 1 00 00 0",
        "11 11 1 11 00 0",
        "11 11 1 11 00 0",
        "00 00 0 00 11 0",
        "00 00 0 00 11 0",
        "00 00 0 00 11 1",
    ),
}
CASES = [
    (objective, task)
    for objective, tasks in (
        (NextToken(), NEXT_TOKEN),
        (MaskedImage(), MASKED),
        (ImageDiffusion(), DIFFUSION),
    )
    for task in tasks
]
EXPECTED = {NextToken: NEXT_TOKEN, MaskedImage: MASKED, ImageDiffusion: DIFFUSION}


def layouts_of(objective, streams):
    """Task -> layout; codes come in lines, and documents packed, where they may."""
    if isinstance(objective, MaskedImage):
        return layouts(objective, SIZES, streams)
    return layouts(objective, LINED, streams, SLOTS)


def layout_of(objective, task, storage):
    return layouts_of(objective, STORAGE[storage])[task]


def row_of(objective, task, storage):
    layout = layout_of(objective, task, storage)
    if task == "interleaved":
        return lay_out_documents(documents(layout), layout)
    tokens = {
        segment.name: (MARKERS | TEXTS | {"image": codes(segment)})[segment.name]
        for segment in layout.segments
        if not segment.continuous
    }
    patches = np.zeros((layout.num_patches, SIZES.patch_size), np.float32)
    return lay_out(Document(tokens, patches), layout)


def codes(segment):
    return LINES if segment.line_length else [20, 21, 22, 23]


def documents(layout):
    both_ways = IMAGE in layout.bidirectional

    def text(*ids):
        return Span(TEXT, ids)

    def image(*ids):
        if not layout.patches_per_image:
            return Span(IMAGE, ids, both_ways)
        patches = np.zeros((SIZES.image_patches, SIZES.patch_size), np.float32)
        return Span(IMAGE, (), both_ways, patches=patches)

    if layout.patches_per_image:
        spans = (text(12, 13), image(), text(14), image()), (image(), text(15))
    else:
        spans = (text(12, 13), image(*LINES), text(14)), (text(12, 15), image(20, 21))
    return [InterleavedDocument(each) for each in spans]


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize(
    ("objective", "task"), CASES, ids=[f"{type(o).__name__} {t}" for o, t in CASES]
)
def test_windows_are_the_matrix_written_by_hand(objective, task, storage):
    row = row_of(objective, task, storage)
    expected = EXPECTED[type(objective)][task]
    np.testing.assert_array_equal(visibility(row), expected)
    # Empty slots neither see nor are seen.
    assert row.layout.row_length > len(expected)
    assert stored_visibility(row).sum() == expected.sum()


@pytest.mark.parametrize("objective", EXPECTED, ids=lambda kind: kind.__name__)
def test_every_task_of_every_objective_has_its_matrix(objective):
    found = layouts_of(objective(), STORAGE["two streams"])
    assert set(found) == set(EXPECTED[objective])


@pytest.mark.parametrize("task", ["text_to_image", "image_to_text", "interleaved"])
def test_line_ends_stand_in_the_image_and_are_predicted(task):
    row = row_of(NextToken(), task, "two streams")
    ids, targets = (in_order(row, f"{kind}_id_BT") for kind in ("token", "target"))
    image = row.streams[IMAGE]
    assert list(image.token_id_BT[:6]) == LINES
    (at,) = np.flatnonzero(ids == LINE_END)[:1]
    assert targets[at - 1] == LINE_END
    assert targets[at] == LINES[3]
    assert list(image.patch_index_BT[:6]) == [0, 1, 2, 3, 4, 5]


def test_the_whole_row_is_there_only_where_masked_codes_are_drawn():
    whole = {
        (type(objective).__name__, task)
        for objective, task in CASES
        if not layout_of(objective, task, "two streams").is_causal(TEXT)
    }
    assert whole == {("MaskedImage", "text_to_image")}


def test_images_that_see_themselves_are_there_as_a_whole():
    whole = {
        (type(objective).__name__, task)
        for objective, task in CASES
        if not layout_of(objective, task, "two streams").is_causal(IMAGE)
        and layout_of(objective, task, "two streams").num_tokens(IMAGE)
    }
    assert whole == {
        ("MaskedImage", "text_to_image"),
        ("MaskedImage", "image_to_text"),
        ("ImageDiffusion", "text_to_image"),
        ("ImageDiffusion", "image_to_text"),
    }
