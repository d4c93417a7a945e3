"""The same template, three objectives: pieces are given, visibility is decided."""

import dataclasses

import pytest

from unimod_jax.layout import (
    ABSENT,
    IMAGE,
    TEXT,
    Piece,
    SpecialTokens,
    Stream,
    causal_templates,
    masked_templates,
)
from unimod_jax.objectives import (
    IMAGE_TO_TEXT,
    TEXT_TO_IMAGE,
    ImageDiffusion,
    MaskedImage,
    NextToken,
    SequenceSizes,
)

STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
SIZES = SequenceSizes(
    caption_tokens=3, image_tokens=4, image_patches=2, question_tokens=5
)
SPECIAL = SpecialTokens(begin=30, end=31, begin_image=32, end_image=33)
ASKING = dataclasses.replace(
    causal_templates(SPECIAL),
    text_to_image=(
        Piece("begin", (30,)),
        Piece("prompt"),
        Piece("begin_image", (32, 40, 41)),
        Piece("image"),
        Piece("end_image", (33,)),
        Piece("end", (31,)),
    ),
    image_to_text=(
        Piece("begin", (30, 50)),
        Piece("begin_image", (32, 40, 41)),
        Piece("image"),
        Piece("end_image", (33,)),
        Piece("question", wording="Q {} A"),
        Piece("caption", wording=" {}"),
    ),
)


def predicted(layout):
    return [(s.name, s.num_slots, s.predicted_by) for s in layout.segments]


def test_next_token_training_predicts_all_but_what_is_given():
    layouts = NextToken().layouts(SIZES, STREAMS, ASKING)
    assert predicted(layouts[TEXT_TO_IMAGE]) == [
        ("begin", 1, "nothing"),
        ("prompt", 3, "predecessor"),
        ("begin_image", 3, "predecessor"),
        ("image", 4, "predecessor"),
        ("end_image", 1, "predecessor"),
        ("end", 1, "predecessor"),
    ]
    assert predicted(layouts[IMAGE_TO_TEXT]) == [
        ("begin", 2, "nothing"),
        ("begin_image", 3, "nothing"),
        ("image", 4, "predecessor"),
        ("end_image", 1, "predecessor"),
        ("question", 5, "nothing"),
        ("caption", 4, "predecessor"),
    ]
    assert layouts[IMAGE_TO_TEXT].segment("question").wording == "Q {} A"
    assert layouts[IMAGE_TO_TEXT].segment("begin").ids == (30, 50)
    assert {layout.special for layout in layouts.values()} == {SPECIAL}


def test_masked_training_predicts_what_is_written_and_sees_images_both_ways():
    layouts = MaskedImage().layouts(SIZES, STREAMS, ASKING)
    assert predicted(layouts[IMAGE_TO_TEXT])[4:] == [
        ("question", 5, "nothing"),
        ("caption", 4, "predecessor"),
    ]
    drawn = layouts[TEXT_TO_IMAGE].segments
    assert [s.name for s in drawn if s.bidirectional] == [
        "begin_image",
        "image",
        "end_image",
    ]
    assert [s.predicted_by for s in drawn if s.name == "image"] == ["itself"]


def test_diffusion_noises_the_image_of_any_template():
    layouts = ImageDiffusion(time_cap=0.3).layouts(SIZES, STREAMS, ASKING)
    image = layouts[IMAGE_TO_TEXT].segment("image")
    assert (image.continuous, image.largest_time) == (True, 0.3)
    assert layouts[TEXT_TO_IMAGE].segment("image").largest_time == 1.0


@pytest.mark.parametrize(
    ("objective", "templates"),
    [
        (NextToken(), causal_templates),
        (ImageDiffusion(), causal_templates),
        (MaskedImage(), masked_templates),
    ],
)
def test_native_templates_are_what_an_objective_takes_by_itself(objective, templates):
    native = templates(SpecialTokens())
    assert objective.layouts(SIZES, STREAMS) == objective.layouts(
        SIZES, STREAMS, native
    )


def test_a_question_without_slots_is_refused():
    sizes = dataclasses.replace(SIZES, question_tokens=0)
    with pytest.raises(ValueError, match=r"no slots for one; set data.question_tokens"):
        NextToken().layouts(sizes, STREAMS, ASKING)


def test_masked_training_needs_a_mask():
    templates = causal_templates(dataclasses.replace(SPECIAL, mask=ABSENT))
    with pytest.raises(ValueError, match="no 'mask' token, which masked-image"):
        MaskedImage().layouts(SIZES, STREAMS, templates)
