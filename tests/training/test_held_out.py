"""The held-out loss depends on parameters alone, and training does not notice it."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn

from tests.training.test_resume import final_arrays
from tests.training.tiny_experiment import tasks_of, tiny_experiment, with_mesh
from unimod_jax.data import DataError, TextTokenizer, empty_rows, open_split
from unimod_jax.models import UnifiedModel
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken, total_loss
from unimod_jax.training import Assembly, Experiment, RunDirectory, train
from unimod_jax.training.checkpoint import RunCheckpoints
from unimod_jax.training.held_out import HeldOutLoss, held_out_records, held_out_rows
from unimod_jax.training.metric_writer import read_metrics

pytestmark = [
    # Orbax's own: these tests read checkpoints without saying where arrays should go.
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
]

OBJECTIVES = [NextToken(z_loss=1e-3), MaskedImage(), ImageDiffusion()]
ROWS = 10  # does not divide by any batch below


def two_tasks(data_directory: Path, objective, batch_size: int = 8) -> Experiment:
    tiny = tiny_experiment(data_directory, objective, held_out_rows=ROWS)
    return dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, batch_size=batch_size),
        tasks=tasks_of(objective, text_to_image=1, image_to_text=1),
    )


def tokenizer_of(experiment: Experiment) -> TextTokenizer:
    records = open_split(experiment.data, "train")[:200]
    texts = [text for record in records for text in record.texts]
    return TextTokenizer.train(texts, Assembly(experiment).vocabulary)


def parameters_of(experiment: Experiment) -> dict:
    """Fresh variables on the host, so that they fit any mesh."""
    assembly = Assembly(experiment)
    batch = empty_rows(assembly.layouts, experiment.data)
    variables = UnifiedModel(assembly.spec).init(jax.random.key(1), batch)
    return jax.device_get(nn.unbox(variables))


def measure(experiment: Experiment, variables: dict) -> dict[str, float]:
    assembly = Assembly(experiment)
    records = held_out_records(experiment.data, ROWS)
    model = UnifiedModel(assembly.spec)
    return HeldOutLoss(assembly, model, records, tokenizer_of(experiment))(variables)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_batches_and_meshes_do_not_change_it(data_directory: Path, objective):
    experiment = two_tasks(data_directory, objective)
    variables = parameters_of(experiment)
    first = measure(experiment, variables)
    assert first == measure(experiment, variables)
    assert {"loss", "text_to_image/loss", "text_to_image/image_loss"} <= set(first)
    larger = two_tasks(data_directory, objective, batch_size=48)
    four = with_mesh(experiment, data=2, fsdp=2)
    for other in (larger, four):
        found = measure(other, variables)
        assert found.keys() == first.keys()
        np.testing.assert_allclose(
            [*found.values()], [*first.values()], rtol=2e-5, err_msg=str(found)
        )


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_it_is_the_loss_of_all_rows_at_once(data_directory: Path, objective):
    experiment = two_tasks(data_directory, objective)
    assembly, variables = Assembly(experiment), parameters_of(experiment)
    records = held_out_records(experiment.data, ROWS)
    batch = held_out_rows(assembly, records, tokenizer_of(experiment), ROWS)

    @jax.jit
    def losses(variables, batch):
        seen, noise = objective.corrupt(batch, jax.random.key(0))
        outputs, _ = UnifiedModel(assembly.spec).apply(variables, seen)
        total, parts = total_loss(
            objective, seen, noise, outputs, assembly.task_weights
        )
        return {"loss": total} | parts

    expected, found = losses(variables, batch), measure(experiment, variables)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)


def held_out(run: RunDirectory) -> dict[int, dict[str, float]]:
    """Step -> its held-out losses, for the rows that have them."""
    rows = {
        int(row["step"]): {n: v for n, v in row.items() if n.startswith("held_out/")}
        for row in read_metrics(run.metrics)
    }
    return {step: losses for step, losses in rows.items() if losses}


@pytest.fixture(scope="module")
def undisturbed(data_directory: Path, tmp_path_factory) -> RunDirectory:
    experiment = tiny_experiment(data_directory, held_out_every=2)
    return train(experiment, tmp_path_factory.mktemp("undisturbed"))


def test_a_resumed_run_writes_the_same_numbers(
    undisturbed: RunDirectory, data_directory: Path, tmp_path: Path, monkeypatch
):
    save = RunCheckpoints.save

    def save_and_stop(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    experiment = tiny_experiment(data_directory, held_out_every=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunCheckpoints, "save", save_and_stop)
        train(experiment, tmp_path)
    assert set(held_out(RunDirectory(tmp_path))) == {2}
    resumed = train(experiment, tmp_path)
    assert held_out(resumed) == held_out(undisturbed)
    assert set(held_out(resumed)) == {2, 4, 6}


def test_training_does_not_notice_it(
    undisturbed: RunDirectory, data_directory: Path, tmp_path: Path
):
    without = train(tiny_experiment(data_directory, held_out_every=0), tmp_path)
    assert held_out(without) == {}
    chex.assert_trees_all_equal(final_arrays(without), final_arrays(undisturbed))
    losses = [
        [row["loss"] for row in read_metrics(run.metrics)]
        for run in (without, undisturbed)
    ]
    assert losses[0] == losses[1]
    spent = [
        json.loads(run.time.read_text())["seconds"]["held_out"]
        for run in (without, undisturbed)
    ]
    assert spent[0] == 0 < spent[1]


def test_how_often_it_is_measured_may_change_when_a_run_is_resumed(
    undisturbed: RunDirectory, data_directory: Path
):
    other = tiny_experiment(data_directory, held_out_every=3, held_out_rows=8)
    undisturbed.claim(other)


def test_the_last_step_is_measured_whatever_the_interval(
    data_directory: Path, tmp_path: Path
):
    run = train(tiny_experiment(data_directory, steps=3, held_out_every=100), tmp_path)
    assert set(held_out(run)) == {3}


def test_data_without_a_test_split_are_refused_with_the_way_out(data_directory: Path):
    data = dataclasses.replace(tiny_experiment(data_directory).data, test_split="dev")
    with pytest.raises(DataError, match=r"no split 'dev'.*held_out_every to 0\.$"):
        held_out_records(data, ROWS)
