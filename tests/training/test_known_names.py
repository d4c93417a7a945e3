"""A name that nothing is called is refused in one sentence, with what there is."""

import dataclasses
import re

import pytest

from unimod_jax.layout import IMAGE, SPEECH, TEXT, Piece, next_token_tasks, shared
from unimod_jax.mod import last_half, same_for
from unimod_jax.models import MixtureOfDepths, MixtureOfTransformers
from unimod_jax.objectives import NextToken
from unimod_jax.training import Assembly, Experiment

TASKS = shared(next_token_tasks(), text_to_image=1, image_to_text=1, text_only=0)
WITH_SPEECH = dataclasses.replace(
    TASKS[2], pieces=(*TASKS[2].pieces, Piece("voice", SPEECH, part="speech"))
)


def is_one_sentence(text: str) -> bool:
    return text.endswith((".", "?")) and not re.search(r"[.?]\s|\n", text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"mod": MixtureOfDepths(same_for(("image_to_txt",), last_half(4, 0.5)))},
            r"mod routes the task 'image_to_txt', .* did you mean 'image_to_text'\?",
        ),
        (
            {"mot": MixtureOfTransformers(expert_towers=("imag",))},
            r"mot.expert_towers names the feed-forward tower 'imag', .* 'image'\?",
        ),
        (
            {"mot": MixtureOfTransformers(tower_groups=((TEXT, "imgae"),))},
            r"mot.tower_groups names the modality 'imgae', .* 'image'\?",
        ),
        (
            {"tasks": (*TASKS[:2], WITH_SPEECH)},
            r"task 'text_only' has tokens of the modality 'speech', .* image, text;",
        ),
    ],
    ids=["task", "tower", "modality", "modality of a piece"],
)
def test_a_name_that_nothing_is_called_is_refused(changes, words: str):
    with pytest.raises(ValueError, match=words) as refused:
        Experiment(NextToken(), **{"tasks": TASKS, **changes})
    assert is_one_sentence(str(refused.value))


@pytest.mark.parametrize(
    "changes",
    [
        {"mod": MixtureOfDepths(same_for(("text_only",), last_half(4, 0.5)))},
        {"mot": MixtureOfTransformers(expert_towers=(IMAGE,))},
        {"mot": MixtureOfTransformers(tower_groups=((TEXT, IMAGE),))},
    ],
    ids=["a task without rows", "a tower", "modalities of one tower"],
)
def test_names_that_there_are_can_be_given(changes):
    assert Assembly(Experiment(NextToken(), TASKS, **changes)).layouts


def test_an_id_beyond_the_vocabulary_is_refused():
    first = Piece.fixed("begin", 5000)
    task = dataclasses.replace(TASKS[0], pieces=(first, *TASKS[0].pieces[1:]))
    experiment = Experiment(NextToken(), (task, TASKS[1]))
    words = r"piece 'begin' of task 'text_to_image' has the id 5000, but .* has \d+ ids"
    with pytest.raises(ValueError, match=words) as refused:
        assert Assembly(experiment).layouts
    assert is_one_sentence(str(refused.value))
