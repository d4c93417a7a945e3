"""A released notation is part of an experiment: saved with it, and its rows follow."""

import dataclasses
import json

import pytest

from unimod_jax.data import DataConfig, Notation, Vocabulary
from unimod_jax.layout import ABSENT, Piece, SpecialTokens, masked_templates
from unimod_jax.models import ModelConfig
from unimod_jax.objectives import IMAGE_TO_TEXT, TEXT_TO_IMAGE, MaskedImage
from unimod_jax.training import Assembly, Experiment
from unimod_jax.training.run_directory import experiment_from_json, experiment_to_json

SPECIAL = SpecialTokens(
    begin=40,
    end=40,
    begin_image=42,
    end_image=43,
    mask=64,
    begin_speech=ABSENT,
    end_speech=ABSENT,
    end_of_line=ABSENT,
    text_to_image=44,
    image_to_text=45,
    text_only=ABSENT,
    interleaved=ABSENT,
)
TEMPLATES = masked_templates(SPECIAL)
NOTATION = Notation(
    Vocabulary(
        SPECIAL,
        text_start=0,
        text_pieces=46,
        words=((0, 41),),
        image_start=48,
        image_codes=16,
        rows=65,
        one_line=False,
    ),
    dataclasses.replace(
        TEMPLATES,
        image_to_text=(
            *TEMPLATES.image_to_text[:-1],
            Piece("question", wording="USER: {} ASSISTANT:"),
            Piece("caption", wording=" {}"),
        ),
    ),
)
EXPERIMENT = Experiment(
    MaskedImage(),
    data=DataConfig(code_size=2, question="What is it?", question_tokens=9),
    notation=NOTATION,
)


def test_a_notation_is_saved_with_its_experiment():
    text = experiment_to_json(EXPERIMENT)
    assert experiment_from_json(text) == EXPERIMENT
    layouts = Assembly(experiment_from_json(text)).layouts
    assert layouts == Assembly(EXPERIMENT).layouts
    assert hash(layouts[IMAGE_TO_TEXT]) == hash(
        Assembly(EXPERIMENT).layouts[IMAGE_TO_TEXT]
    )


def test_a_configuration_from_before_notations_is_read_as_native():
    native = dataclasses.replace(EXPERIMENT, notation=None)
    saved = json.loads(experiment_to_json(native))
    del saved["notation"]
    for name in ("code_size", "question", "question_tokens"):
        del saved["data"][name]
    read = experiment_from_json(json.dumps(saved))
    assert read == dataclasses.replace(native, data=DataConfig())
    assert Assembly(read).vocabulary == Vocabulary.of(DataConfig())


def test_rows_and_embedding_follow_from_the_notation():
    assembly = Assembly(EXPERIMENT)
    assert assembly.vocabulary_size == 65
    assert assembly.image_codes.start == 48
    assert assembly.image_codes.allowed().sum() == 16
    drawn = assembly.layouts[TEXT_TO_IMAGE]
    assert drawn.segment("task").ids == (44,)
    assert drawn.segment("image").num_slots == 16
    assert drawn.special == SPECIAL
    answered = assembly.layouts[IMAGE_TO_TEXT]
    assert answered.segment("question").num_slots == 9
    assert answered.segment("begin").ids == (40,)


def test_a_model_with_fewer_rows_than_its_notation_is_refused():
    small = dataclasses.replace(EXPERIMENT, model=ModelConfig(vocabulary_size=64))
    with pytest.raises(ValueError, match=r"vocabulary_size is 64, but .* 65 ids"):
        assert Assembly(small).vocabulary_size
