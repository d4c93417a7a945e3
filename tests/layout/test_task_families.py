"""Tasks say which pieces a row has; layouts carry the ids of their markers."""

import dataclasses

import pytest

from unimod_jax.layout import (
    ABSENT,
    IMAGE,
    SPEECH,
    TASK_IDS,
    TEXT,
    DocumentRows,
    InterleavedLayout,
    PartSizes,
    Piece,
    SegmentSpec,
    SpecialTokens,
    Stream,
    Task,
    TaskLayout,
    diffusion_tasks,
    interleaved_task,
    masked_image_tasks,
    next_token_tasks,
    rows_of_task,
    rows_per_step,
    shared,
    with_piece,
)

STREAMS = (Stream.of(TEXT), Stream.of(IMAGE, SPEECH))
NATIVE = SpecialTokens()
SIZES = PartSizes(text_tokens=3, image_codes=4, image_patches=2, speech_units=5)


def ids(task):
    return [(piece.name, *piece.ids) for piece in task.pieces]


def test_native_tasks_are_the_rows_of_the_papers():
    causal, masked = next_token_tasks(), masked_image_tasks()
    image = [("begin_image", 3), ("image",), ("end_image", 4)]
    assert ids(causal["text_to_image"]) == [("begin", 1), ("prompt",), *image]
    assert ids(causal["image_to_text"]) == [("begin", 1), *image, ("caption",)]
    assert ids(causal["text_only"]) == [("begin", 1), ("text",)]
    prompt = [("begin", 1), ("prompt",), ("end", 2)]
    assert ids(masked["text_to_image"]) == [("task", 12), *prompt, *image]
    caption = [("begin", 1), ("caption",)]
    assert ids(masked["image_to_text"]) == [("task", 13), *image, *caption]
    assert ids(masked["text_only"]) == [("begin", 1), ("text",)]
    assert {name: ids(task) for name, task in diffusion_tasks().items()} == {
        name: ids(task) for name, task in causal.items()
    }


def test_native_task_ids_are_no_markers():
    assert not NATIVE.ids & set(TASK_IDS)
    assert {12, 13} <= set(TASK_IDS)


@pytest.mark.parametrize(
    "family", [next_token_tasks, diffusion_tasks, masked_image_tasks]
)
def test_markers_are_those_of_the_vocabulary(family):
    special = SpecialTokens(begin=30, end=31, begin_image=32, end_image=33)
    fixed = {
        piece.name: piece.ids
        for task in family(special).values()
        for piece in task.pieces
        if piece.ids and piece.name != "task"
    }
    assert fixed.items() >= {
        ("begin", (30,)),
        ("begin_image", (32,)),
        ("end_image", (33,)),
    }
    layout = rows_of_task(family(special)["text_only"], SIZES, STREAMS, special)
    assert layout.special == special


def test_what_is_written_and_what_is_given_is_said_by_each_task():
    for family in (next_token_tasks(), diffusion_tasks(), masked_image_tasks()):
        written, given = (
            {
                name: [piece.name for piece in getattr(task, which)]
                for name, task in family.items()
            }
            for which in ("written", "given")
        )
        assert written == {
            "text_to_image": ["image"],
            "image_to_text": ["caption"],
            "text_only": ["text"],
        }
        assert given == {
            "text_to_image": ["prompt"],
            "image_to_text": ["image"],
            "text_only": [],
        }
        droppable = [p.name for t in family.values() for p in t.pieces if p.droppable]
        assert droppable == ["prompt"]


def test_an_experiment_takes_the_tasks_it_names_and_changes_what_it_likes():
    family = next_token_tasks()
    drawn, text = shared(family, text_only=1, text_to_image=3)
    assert (drawn.name, drawn.share) == ("text_to_image", 3)
    assert (text.name, text.share) == ("text_only", 1)
    with pytest.raises(ValueError, match=r"no tasks \['speaking'\] among"):
        shared(family, speaking=1)
    longer = with_piece(drawn, "prompt", num_slots=9, wording="draw {}")
    assert [p.name for p in longer.pieces] == [p.name for p in drawn.pieces]
    layout = rows_of_task(longer, SIZES, STREAMS)
    prompt = layout.segment("prompt")
    assert (prompt.num_slots, prompt.wording) == (9, "draw {}")


def test_a_family_is_changed_by_its_options():
    capped = diffusion_tasks(time_cap=0.3)
    times = {
        name: [p.largest_time for p in capped[name].pieces if p.name == "image"]
        for name in ("text_to_image", "image_to_text")
    }
    assert times == {"text_to_image": [1.0], "image_to_text": [0.3]}
    hiding = masked_image_tasks(
        task_id={"text_to_image": 40, "image_to_text": 41},
        understanding_hidden_share=0.25,
    )
    assert hiding["text_to_image"].pieces[0].ids == (40,)
    assert hiding["image_to_text"].pieces[0].ids == (41,)
    shown = hiding["image_to_text"].given[0]
    assert (shown.hidden_share, shown.predicted_by) == (0.25, "nothing")


def test_interleaved_rows_are_shuffled_unless_they_say_otherwise():
    slots = ((TEXT, 8), (IMAGE, 4))
    task = interleaved_task(slots, bidirectional=(IMAGE,), captioned_time=0.5)
    assert task.name == "interleaved" and task.documents.shuffled
    layout = rows_of_task(task, SIZES, STREAMS)
    assert isinstance(layout, InterleavedLayout)
    assert (layout.slots, layout.shuffled) == (slots, True)
    assert (layout.bidirectional, layout.captioned_time) == ((IMAGE,), 0.5)
    in_order = interleaved_task(slots, shuffled=False)
    assert not rows_of_task(in_order, SIZES, STREAMS).shuffled


# --- Slots ----------------------------------------------------------------------------


def test_pieces_take_the_slots_of_their_parts():
    pieces = (
        Piece.fixed("begin", 1, 20),
        Piece("question", part="question"),
        Piece("answer", part="answer", written=True),
        Piece("image", IMAGE, part="image", written=True),
        Piece("heard", SPEECH, part="speech"),
        Piece("said", SPEECH, part="speech", written=True),
        Piece("short", part="title", num_slots=2),
        Piece("shorter", part="title", num_slots=1, written=True),
    )
    layout = rows_of_task(Task("all", pieces), SIZES, STREAMS)
    # What is written has a slot for its end; an image has none.
    assert [s.num_slots for s in layout.segments] == [2, 3, 4, 4, 5, 6, 2, 2]


def test_images_are_codes_with_the_ends_of_their_lines_or_patches():
    lined = dataclasses.replace(SIZES, image_line=2)
    patches = dataclasses.replace(lined, continuous=True, patch_size=3)
    assert (SIZES.image_slots, lined.image_slots, patches.image_slots) == (4, 6, 2)
    task = next_token_tasks()["text_to_image"]
    of_codes = rows_of_task(task, lined, STREAMS).segment("image")
    assert (of_codes.num_slots, of_codes.line_length) == (6, 2)
    assert not of_codes.continuous
    of_patches = rows_of_task(task, patches, STREAMS).segment("image")
    assert (of_patches.num_slots, of_patches.line_length) == (2, 0)
    assert of_patches.continuous
    documents = interleaved_task(((TEXT, 8), (IMAGE, 4)))
    assert rows_of_task(documents, lined, STREAMS).line_length == 2
    packed = rows_of_task(documents, patches, STREAMS)
    assert (packed.patches_per_image, packed.patch_size) == (2, 3)
    assert packed.line_length == 0


def test_a_part_without_slots_is_refused():
    task = Task("dictation", (Piece("heard", SPEECH, part="speech"),))
    silent = dataclasses.replace(SIZES, speech_units=0)
    with pytest.raises(ValueError, match="'heard' of task 'dictation' has 0 slots"):
        rows_of_task(task, silent, STREAMS)


# --- Shares ---------------------------------------------------------------------------


def test_the_rows_of_a_step_are_divided_by_share():
    tasks = shared(next_token_tasks(), text_to_image=2, image_to_text=0, text_only=1)
    assert rows_per_step(tasks, 12) == {"text_to_image": 8, "text_only": 4}
    with pytest.raises(ValueError, match=r"batch_size 8 cannot .* multiple of 3"):
        rows_per_step(tasks, 8)
    with pytest.raises(ValueError, match="no name twice"):
        rows_per_step((*tasks, tasks[0]), 12)
    with pytest.raises(ValueError, match="cannot be divided"):
        rows_per_step(shared(next_token_tasks(), text_only=0), 12)


# --- What is refused ------------------------------------------------------------------


def test_absent_markers_have_no_id():
    special = dataclasses.replace(NATIVE, mask=ABSENT, end_of_line=ABSENT)
    assert special.ids == NATIVE.ids - {5, 8}
    assert special.require("begin", "this test") == 1
    with pytest.raises(ValueError, match=r"no 'mask' token, which this test needs"):
        special.require("mask", "this test")


@pytest.mark.parametrize(
    ("piece", "sentence"),
    [
        ({"name": "task", "ids": (ABSENT,)}, "one of which the vocabulary does not"),
        ({"name": "prompt", "wording": "a"}, "wording of the piece 'prompt' is 'a'"),
        ({"name": "prompt", "wording": "{} {}"}, "write {} once"),
        ({"name": "smell", "modality": "odour"}, "has modality 'odour'; choose from"),
        ({"name": "image", "predicted_by": "chance"}, "predicted by 'chance'; choose"),
        ({"name": "image", "hidden_share": 1.5}, "hidden_share of .* is 1.5; give a"),
        ({"name": "image", "largest_time": -0.1}, "largest_time of .* is -0.1"),
        ({"name": "image", "occurrence": -1}, "occurrence of .* is -1; give 0 or"),
    ],
)
def test_an_impossible_piece_is_refused(piece, sentence):
    with pytest.raises(ValueError, match=sentence):
        Piece(**piece)


TEXT_PIECE = Piece("text", part="text")


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ({"pieces": (Piece("begin"),)}, r"'begin' of .* has ids \[\] and part ''"),
        ({"pieces": (Piece("text", part="text", ids=(1,)),)}, r"ids \[1\] and part"),
        ({"pieces": (TEXT_PIECE, TEXT_PIECE)}, "give no name twice"),
        ({"pieces": (TEXT_PIECE,), "prefix": "image"}, "has prefix 'image', which"),
        ({"pieces": (TEXT_PIECE,), "share": -1}, "share -1 and loss_weight"),
        (
            {"pieces": (TEXT_PIECE,), "loss_weight": float("inf")},
            "loss_weight inf; give finite",
        ),
        ({}, "has 0 pieces and documents None; give it one of the two"),
        (
            {"pieces": (TEXT_PIECE,), "documents": DocumentRows(((TEXT, 4),))},
            "has 1 pieces and documents",
        ),
        ({"name": "a task", "pieces": (TEXT_PIECE,)}, "cannot spell"),
        ({"name": "class", "pieces": (TEXT_PIECE,)}, "no word of Python.s own"),
    ],
)
def test_a_task_that_cannot_be_laid_out_is_refused(task, sentence):
    with pytest.raises(ValueError, match=sentence):
        Task(**({"name": "reading"} | task))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"slots": ((IMAGE, 4),)}, "none of them for text"),
        ({"slots": ((TEXT, 4), (IMAGE, 0))}, "have 0 slots for 'image'"),
        ({"slots": ((TEXT, 4), ("odour", 4))}, "4 slots for 'odour'"),
        ({"slots": ((TEXT, 4),), "documents_per_row": 0}, "documents_per_row is 0"),
        ({"slots": ((TEXT, 4),), "captioned_time": 2.0}, "captioned_time 2.0"),
    ],
)
def test_impossible_rows_of_documents_are_refused(rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        DocumentRows(**rows)


def test_a_fixed_segment_has_a_slot_for_each_id():
    segment = SegmentSpec("begin", TEXT, 1, ids=(1, 2))
    with pytest.raises(ValueError, match=r"'begin' of task 'a' has 1 slots for ids"):
        TaskLayout("a", (segment,), STREAMS)


def test_a_row_that_needs_a_marker_is_refused_without_it():
    without = dataclasses.replace(
        NATIVE, end_of_line=ABSENT, begin_speech=ABSENT, end_speech=ABSENT, mask=ABSENT
    )
    image = SegmentSpec("image", IMAGE, 6, line_length=2)
    with pytest.raises(ValueError, match="no 'end_of_line' token, which task 'a'"):
        TaskLayout("a", (image,), STREAMS, special=without)
    with pytest.raises(ValueError, match="no 'begin_speech' token, which task 'b'"):
        InterleavedLayout("b", STREAMS, ((SPEECH, 4),), special=without)
    said = SegmentSpec("said", SPEECH, 4, written=True)
    with pytest.raises(ValueError, match="no 'end_speech' token, which task 'c'"):
        TaskLayout("c", (said,), STREAMS, special=without)
    masked = SegmentSpec("image", IMAGE, 4, predicted_by="itself")
    with pytest.raises(ValueError, match="no 'mask' token, which task 'd'"):
        TaskLayout("d", (masked,), STREAMS, special=without)
    # A family can be laid out as far as its tasks need no more.
    drawn = masked_image_tasks(without)["text_to_image"]
    with pytest.raises(ValueError, match="no 'mask' token, which task 'text_to_im"):
        rows_of_task(drawn, SIZES, STREAMS, without)
    captioned = masked_image_tasks(without)["image_to_text"]
    assert rows_of_task(captioned, SIZES, STREAMS, without).special == without


def test_a_fixed_segment_predicts_from_its_last_id_only():
    """After two fixed ids a caption has one slot that may predict its beginning."""
    segments = (
        SegmentSpec("begin", TEXT, 3, predicted_by="nothing", ids=(1, 20, 21)),
        SegmentSpec("caption", TEXT, 2),
    )
    layout = TaskLayout("a", segments, STREAMS)
    assert layout.predicting_slots(TEXT) == slice(2, 4)
