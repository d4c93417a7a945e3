"""Several questions about one image, asked and answered in turn.

Tests: a task of one's own, written here alone: rows with three questions and three
answers behind an image, each answer written after the turns before it; its own router.
Run: python -m experiments.train toy/digits_questions
     python -m experiments.sample runs/toy/digits_questions --part image=scan.png \
       --part question_1="which digit is it?"
Expect: the loss of answers falls below 0.3 in 400 steps; two minutes on two CPU cores.
"""

from unimod_jax.data import DataConfig
from unimod_jax.layout import IMAGE, TEXT, Piece, SpecialTokens, Task
from unimod_jax.mod import last_half, same_for
from unimod_jax.models import MixtureOfDepths
from unimod_jax.objectives import NextToken
from unimod_jax.training import Experiment, TrainingConfig

_TURNS = 3
_QUESTION_TOKENS, _ANSWER_TOKENS = 12, 3


def questions() -> Task:
    """An image, then questions that are given and answers that are written."""
    m = SpecialTokens()
    turns = []
    for turn in range(_TURNS):
        turns += [
            Piece(
                *(f"question_{turn + 1}", TEXT, _QUESTION_TOKENS),
                part="question",
                occurrence=turn,
                predicted_by="nothing",
                optional=turn > 0,
            ),
            Piece(
                *(f"answer_{turn + 1}", TEXT, _ANSWER_TOKENS),
                part="answer",
                occurrence=turn,
                written=True,
                optional=turn > 0,
            ),
        ]
    shown = (
        Piece.fixed("begin", m.begin),
        Piece.fixed("begin_image", m.begin_image),
        Piece("image", IMAGE, part="image", predicted_by="nothing"),
        Piece.fixed("end_image", m.end_image),
    )
    return Task("questions", (*shown, *turns))


def experiment() -> Experiment:
    """The configuration."""
    return Experiment(
        objective=NextToken(),
        tasks=(questions(),),
        mod=MixtureOfDepths(same_for(("questions",), last_half(4, 0.5))),
        data=DataConfig(parts=("image", "turns"), batch_size=64),
        training=TrainingConfig(steps=400, warmup_steps=40, checkpoint_every=200),
    )
