"""A released vocabulary and rows are part of an experiment, and saved with it."""

import dataclasses
import json

import pytest

from unimod_jax.data import DataConfig, Vocabulary
from unimod_jax.layout import Piece, SpecialTokens, masked_image_tasks, with_piece
from unimod_jax.models import ModelConfig
from unimod_jax.objectives import MaskedImage
from unimod_jax.training import Assembly, Experiment
from unimod_jax.training.run_directory import experiment_from_json, experiment_to_json

SPECIAL = SpecialTokens.only(begin=40, end=40, begin_image=42, end_image=43, mask=64)
VOCABULARY = Vocabulary(
    SPECIAL,
    text_start=0,
    text_pieces=46,
    words=((0, 41),),
    image_start=48,
    image_codes=16,
    rows=65,
    one_line=False,
)
TASKS = masked_image_tasks(SPECIAL, {"text_to_image": 44, "image_to_text": 45})
DESCRIBED = with_piece(TASKS["image_to_text"], "caption", wording=" {}")
QUESTION = Piece(
    "question",
    num_slots=9,
    part="question",
    predicted_by="nothing",
    wording="USER: {} ASSISTANT:",
    default="What is it?",
)
EXPERIMENT = Experiment(
    MaskedImage(),
    tasks=(
        TASKS["text_to_image"],
        dataclasses.replace(
            DESCRIBED, pieces=(*DESCRIBED.pieces[:-1], QUESTION, DESCRIBED.pieces[-1])
        ),
        TASKS["text_only"],
    ),
    data=DataConfig(code_size=2),
    vocabulary=VOCABULARY,
)


def test_vocabulary_and_rows_are_saved_with_their_experiment():
    text = experiment_to_json(EXPERIMENT)
    assert experiment_from_json(text) == EXPERIMENT
    layouts = Assembly(experiment_from_json(text)).layouts
    assert layouts == Assembly(EXPERIMENT).layouts
    assert hash(layouts["image_to_text"]) == hash(
        Assembly(EXPERIMENT).layouts["image_to_text"]
    )


def test_a_configuration_that_names_no_vocabulary_is_read_as_native():
    native = dataclasses.replace(
        EXPERIMENT, vocabulary=None, tasks=tuple(masked_image_tasks().values())
    )
    saved = json.loads(experiment_to_json(native))
    del saved["vocabulary"], saved["data"]["code_size"]
    read = experiment_from_json(json.dumps(saved))
    assert read == dataclasses.replace(native, data=DataConfig())
    assert Assembly(read).vocabulary == Vocabulary.of(DataConfig())


def test_rows_and_embedding_follow_from_the_vocabulary():
    assembly = Assembly(EXPERIMENT)
    assert assembly.vocabulary_size == 65
    assert assembly.image_codes.start == 48
    assert assembly.image_codes.allowed().sum() == 16
    drawn = assembly.layouts["text_to_image"]
    assert drawn.segment("task").ids == (44,)
    assert drawn.segment("image").num_slots == 16
    assert drawn.special == SPECIAL
    answered = assembly.layouts["image_to_text"]
    assert answered.segment("question").num_slots == 9
    assert answered.segment("begin").ids == (40,)


def test_a_model_with_fewer_rows_than_its_vocabulary_is_refused():
    small = dataclasses.replace(EXPERIMENT, model=ModelConfig(vocabulary_size=64))
    with pytest.raises(ValueError, match=r"vocabulary_size is 64, but .* 65 ids"):
        assert Assembly(small).vocabulary_size
