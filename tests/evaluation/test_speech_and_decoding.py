"""A run with speech, and what decoding costs where two rules choose tokens."""

import dataclasses

import numpy as np
import pytest

from tests.models.tiny_model import routed_in
from unimod_jax.data import DataConfig, open_judge, open_split
from unimod_jax.data.handwritten_digits.wordings import DIGIT_WORDS
from unimod_jax.evaluation import TrainedRun, open_run
from unimod_jax.evaluation.decoding_costs import measure_decoding
from unimod_jax.evaluation.transcription import judged_transcription, transcribe
from unimod_jax.layout import IMAGE, SPEECH, TEXT, interleaved_task
from unimod_jax.models import ModelConfig
from unimod_jax.objectives import NextToken
from unimod_jax.training import Experiment, TrainingConfig, train


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Two steps of a layer with three towers and a predictor, on packed rows alone."""
    experiment = Experiment(
        NextToken(),
        model=ModelConfig(
            width=32,
            num_layers=1,
            num_heads=2,
            num_kv_heads=2,
            head_dim=16,
            remat="nothing",
            modalities=(TEXT, IMAGE, SPEECH),
        ),
        mod=routed_in(
            (0,),
            tasks=("interleaved",),
            keep_ratio=0.5,
            causal_rule="predictor",
            num_layers=1,
        ),
        tasks=(interleaved_task(((TEXT, 15), (IMAGE, 64), (SPEECH, 12))),),
        data=DataConfig(
            directory=str(tmp_path_factory.mktemp("data")),
            batch_size=4,
            caption_tokens=9,
            parts=("image", "text=captions", "speech"),
            speech_units=32,
            speech_tokens=12,
        ),
        training=TrainingConfig(steps=2, checkpoint_every=2, log_every=1),
    )
    return open_run(train(experiment, tmp_path_factory.mktemp("runs") / "spoken").path)


@pytest.fixture(scope="module")
def records(spoken: TrainedRun):
    return open_split(spoken.experiment.data, "test")[:12]


def test_every_utterance_is_followed_by_a_text(spoken, records):
    layout = spoken.assembly.layouts["interleaved"]
    utterances = [record.part("speech").units for record in records]
    texts = transcribe(spoken, layout, utterances, batch_size=5)
    assert len(texts) == len(records)
    assert transcribe(spoken, layout, [utterances[7]], batch_size=5) == [texts[7]]
    judge = open_judge(spoken.experiment.data)
    (piece,) = judged_transcription(spoken, layout, records, judge)
    assert piece.kind == "transcription" and piece.written == texts
    labels = [str(record.attributes["label"]) for record in records]
    assert [verdict.wanted for verdict in piece.verdicts] == labels
    said = ["the digit " + DIGIT_WORDS[int(label)] for label in labels]
    verdicts = [judge(r, r.part("text"), x) for r, x in zip(records, said, strict=True)]
    assert all(verdict.right for verdict in verdicts)


def test_a_run_that_looks_ahead_transcribes_nothing(spoken, records):
    leaking = dataclasses.replace(spoken.experiment.mod, causal_rule="top_k")
    experiment = dataclasses.replace(spoken.experiment, mod=leaking)
    assembly = dataclasses.replace(spoken.assembly, experiment=experiment)
    other = dataclasses.replace(spoken, experiment=experiment, assembly=assembly)
    layout = spoken.assembly.layouts["interleaved"]
    assert judged_transcription(other, layout, records, None) == []


def test_decoding_caches_half_and_the_gap_between_the_rules_is_a_share(spoken, records):
    costs = measure_decoding(spoken, records)
    ratio = costs.cache_bytes["interleaved"] / costs.dense_cache_bytes["interleaved"]
    assert 0.5 <= ratio < 0.55
    assert set(costs.selection_gap) == {
        f"layer_0/{'interleaved'}/{name}" for name in (TEXT, IMAGE, SPEECH)
    }
    gaps = np.asarray(list(costs.selection_gap.values()))
    # Two steps are not enough for the predictor to agree with top-k everywhere.
    assert np.all((gaps >= 0.0) & (gaps <= 1.0)) and gaps.max() > 0.0
