"""What is trained on in the rows of each family, and which rows are refused."""

import dataclasses

import pytest

from tests.task_rows import family_of, layouts
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    PartSizes,
    Piece,
    SpecialTokens,
    Stream,
    Task,
    interleaved_task,
    masked_image_tasks,
    next_token_tasks,
    rows_of_task,
    with_piece,
)
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken

STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
SIZES = PartSizes(text_tokens=3, image_codes=4, image_patches=2)
SPECIAL = SpecialTokens(begin=30, end=31, begin_image=32, end_image=33)
QUESTION = Piece(
    *("question", TEXT, 5), part="question", predicted_by="nothing", wording="Q {} A"
)
OBJECTIVES = (NextToken(), MaskedImage(), ImageDiffusion())


def asking(family):
    """The rows of a family with a question before the caption, as released ones are."""
    drawn, described = family["text_to_image"], family["image_to_text"]
    drawn = with_piece(drawn, "begin_image", ids=(32, 40, 41))
    described = with_piece(described, "begin_image", ids=(32, 40, 41))
    *shown, caption = with_piece(described, "begin", ids=(30, 50)).pieces
    return {
        "text_to_image": dataclasses.replace(
            drawn, pieces=(*drawn.pieces, Piece("stop", ids=(31,)))
        ),
        "image_to_text": dataclasses.replace(
            described, pieces=(*shown, QUESTION, caption)
        ),
    }


def rows(objective):
    """Task -> layout of the rows of `asking`."""
    sizes = dataclasses.replace(SIZES, continuous=objective.continuous_images)
    found = {
        name: rows_of_task(task, sizes, STREAMS, SPECIAL)
        for name, task in asking(family_of(objective, special=SPECIAL)).items()
    }
    for layout in found.values():
        objective.check(layout)
    return found


def predicted(layout):
    return [(s.name, s.num_slots, s.predicted_by) for s in layout.segments]


def test_next_token_training_predicts_all_but_what_is_given():
    found = rows(NextToken())
    assert predicted(found["text_to_image"]) == [
        ("begin", 1, "nothing"),
        ("prompt", 3, "predecessor"),
        ("begin_image", 3, "predecessor"),
        ("image", 4, "predecessor"),
        ("end_image", 1, "predecessor"),
        ("stop", 1, "predecessor"),
    ]
    assert predicted(found["image_to_text"]) == [
        ("begin", 2, "nothing"),
        ("begin_image", 3, "nothing"),
        ("image", 4, "predecessor"),
        ("end_image", 1, "predecessor"),
        ("question", 5, "nothing"),
        ("caption", 4, "predecessor"),
    ]
    assert found["image_to_text"].segment("question").wording == "Q {} A"
    assert found["image_to_text"].segment("begin").ids == (30, 50)
    assert {layout.special for layout in found.values()} == {SPECIAL}


def test_masked_training_predicts_what_is_written_and_sees_images_both_ways():
    found = rows(MaskedImage())
    assert predicted(found["image_to_text"])[-2:] == [
        ("question", 5, "nothing"),
        ("caption", 4, "predecessor"),
    ]
    drawn = found["text_to_image"].segments
    assert [(s.name, s.span) for s in drawn if s.span] == [
        ("begin_image", "image"),
        ("image", "image"),
        ("end_image", "image"),
    ]
    assert [s.name for s in drawn if s.is_masked] == ["image"]


def test_diffusion_noises_the_image_and_no_marker_is_in_its_span():
    found = rows(ImageDiffusion())
    described, drawn = (found[t] for t in ("image_to_text", "text_to_image"))
    image = described.segment("image")
    assert (image.continuous, image.largest_time) == (True, 0.5)
    assert drawn.segment("image").largest_time == 1.0
    for layout in (described, drawn):
        assert [s.name for s in layout.segments if s.span] == ["image"]
    # Text is predicted as in next-token training.
    text = [
        [p for p in predicted(rows(objective)["text_to_image"]) if p[0] != "image"]
        for objective in (NextToken(), ImageDiffusion())
    ]
    assert text[0] == text[1]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_native_rows_are_those_of_the_native_markers(objective):
    native = SpecialTokens()
    found = layouts(objective, SIZES, STREAMS)
    assert found == layouts(objective, SIZES, STREAMS, special=native)
    assert set(found) == {"text_to_image", "image_to_text", "text_only"}


# --- What an objective cannot train ---------------------------------------------------


def refused(objective, task, sizes=SIZES, match=""):
    sizes = dataclasses.replace(sizes, continuous=objective.continuous_images)
    layout = rows_of_task(task, sizes, STREAMS)
    with pytest.raises(ValueError, match=match) as error:
        objective.check(layout)
    assert f"{task.name!r}" in str(error.value) or "data." in str(error.value)
    assert "\n" not in str(error.value)


def test_next_token_training_hides_nothing():
    masked = masked_image_tasks(understanding_hidden_share=0.1)
    for name in ("text_to_image", "image_to_text"):
        refused(NextToken(), masked[name], match="next-token training hides nothing")
    NextToken().check(rows_of_task(masked["text_only"], SIZES, STREAMS))
    clean = masked_image_tasks()["image_to_text"]
    NextToken().check(rows_of_task(clean, SIZES, STREAMS))


def test_masked_training_has_neither_lines_nor_documents():
    masked = masked_image_tasks()
    lined = dataclasses.replace(SIZES, image_line=2)
    refused(MaskedImage(), masked["text_to_image"], lined, "data.image_line is 2")
    documents = interleaved_task(((TEXT, 8), (IMAGE, 4)))
    refused(MaskedImage(), documents, match="rows of documents, but masked-image")


@pytest.mark.parametrize(
    "changes",
    [
        {"span": ""},
        {"largest_time": 0.0},
        {"hidden_share": 0.5},
    ],
)
def test_diffusion_noises_whole_images_that_see_themselves(changes):
    drawn = family_of(ImageDiffusion())["text_to_image"]
    changed = with_piece(drawn, "image", **changes)
    refused(ImageDiffusion(), changed, match="diffusion noises whole images")


def test_diffusion_refuses_codes_that_are_predicted_in_place():
    task = Task("puzzle", (Piece("text", part="text", predicted_by="itself"),))
    refused(ImageDiffusion(), task, match="'text' of task 'puzzle'")


def test_diffusion_may_show_a_given_image_clean():
    described = family_of(ImageDiffusion(), time_cap=0.0)["image_to_text"]
    sizes = dataclasses.replace(SIZES, continuous=True)
    ImageDiffusion().check(rows_of_task(described, sizes, STREAMS))


def test_what_is_written_may_stand_in_any_order():
    """A caption before its image, and one behind it, in one row."""
    pieces = (
        *next_token_tasks()["text_to_image"].pieces,
        Piece("caption", part="text", occurrence=1, written=True),
    )
    layout = rows_of_task(Task("both", pieces), SIZES, STREAMS)
    NextToken().check(layout)
    assert [s.name for s in layout.segments if s.written] == ["image", "caption"]
