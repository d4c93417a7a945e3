"""Speech to text and text to speech: two tasks, each with its own router.

Tests: utterances that are given and utterances that are written, in rows of fixed
pieces; three modalities, of which one is absent in every row.
Run: python -m experiments.train toy/digits_heard_and_said
     python -m experiments.sample runs/toy/digits_heard_and_said \
       --task text_to_speech --part prompt="the digit seven"
Expect: the text loss falls below 0.8 in 400 steps; a minute on two CPU cores.
"""

from unimod_jax.data import DataConfig
from unimod_jax.data.spoken_digits import LONGEST, NUM_UNITS
from unimod_jax.layout import IMAGE, SPEECH, TEXT, Piece, SpecialTokens, Task
from unimod_jax.mod import last_half, same_for
from unimod_jax.models import MixtureOfDepths, ModelConfig
from unimod_jax.objectives import NextToken
from unimod_jax.training import Experiment, TrainingConfig


def speech_tasks() -> tuple[Task, Task]:
    """An utterance and its caption, and the other way round."""
    m = SpecialTokens()
    begin = Piece.fixed("begin", m.begin)
    begin_speech = Piece.fixed("begin_speech", m.begin_speech)
    heard = Piece("speech", SPEECH, part="speech", predicted_by="nothing")
    end_speech = Piece.fixed("end_speech", m.end_speech)
    caption = Piece("caption", part="text", written=True)
    prompt = Piece("prompt", part="text", predicted_by="nothing")
    said = Piece("speech", SPEECH, part="speech", written=True)
    return (
        Task("speech_to_text", (begin, begin_speech, heard, end_speech, caption)),
        Task("text_to_speech", (begin, prompt, begin_speech, said)),
    )


def experiment() -> Experiment:
    """The configuration."""
    return Experiment(
        objective=NextToken(),
        tasks=speech_tasks(),
        model=ModelConfig(modalities=(TEXT, IMAGE, SPEECH)),
        mod=MixtureOfDepths(
            same_for(("speech_to_text", "text_to_speech"), last_half(4, 0.5))
        ),
        data=DataConfig(
            parts=("text=captions", "speech"),
            caption_tokens=9,
            speech_units=NUM_UNITS,
            speech_tokens=LONGEST,
            batch_size=64,
        ),
        training=TrainingConfig(steps=400, warmup_steps=40, checkpoint_every=200),
    )
