"""A new run starts from any other: dense, towers or routes, one plan or another."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests.training.tiny_experiment import tiny_experiment
from unimod_jax.mod import TaskPlan
from unimod_jax.models import MixtureOfDepths, MixtureOfTransformers
from unimod_jax.models.config import DENSE
from unimod_jax.models.parameter_path import chooses_tokens, layered
from unimod_jax.training import Assembly, RunDirectory, RunError, StartingPoint, train
from unimod_jax.training.metric_writer import read_metrics
from unimod_jax.training.newest_variables import newest_variables

pytestmark = [
    # Orbax's own: these tests read checkpoints without saying where arrays should go.
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
]

STILL = {"learning_rate": 1e-30, "final_learning_rate": 1e-30, "weight_decay": 0.0}
"""A step that moves no weight by a bit."""


def plan(*ratios):
    return MixtureOfDepths((TaskPlan("text_to_image", ratios),))


@pytest.fixture(scope="module")
def two_layers(data_directory):
    """The tiny experiment, dense and with two layers."""
    tiny = tiny_experiment(data_directory, steps=2, warmup_steps=0, checkpoint_every=2)
    model = dataclasses.replace(tiny.model, num_layers=2)
    towers, routing = DENSE
    return dataclasses.replace(tiny, model=model, mot=towers, mod=routing)


@pytest.fixture(scope="module")
def dense(two_layers, tmp_path_factory):
    return train(two_layers, tmp_path_factory.mktemp("dense") / "run")


@pytest.fixture(scope="module")
def routed(two_layers, tmp_path_factory):
    """Towers, and a router in the second layer that has learned something."""
    experiment = dataclasses.replace(
        two_layers, mot=MixtureOfTransformers(), mod=plan(None, 0.5)
    )
    return train(experiment, tmp_path_factory.mktemp("routed") / "run")


def begun(experiment, start, path, **changes) -> RunDirectory:
    """One step that moves nothing, from another run's weights."""
    point = StartingPoint.open(start.path)
    still = dataclasses.replace(experiment.training, steps=1, **STILL)
    adopted = point.adopted_by(dataclasses.replace(experiment, **changes))
    return train(dataclasses.replace(adopted, training=still), path, start=point)


def loss_of(run: RunDirectory) -> float:
    return read_metrics(run.metrics)[0]["loss"]


def variables_of(run: RunDirectory) -> dict:
    assembly = Assembly(run.read_experiment())
    variables, _ = newest_variables(run, assembly)
    return layered(variables, assembly.spec.designs)


def test_a_dense_run_starts_its_like_routes_and_towers_without_losing_a_bit(
    two_layers, dense, tmp_path
):
    expected = loss_of(begun(two_layers, dense, tmp_path / "dense"))
    routes = begun(two_layers, dense, tmp_path / "routes", mod=plan(None, 1.0))
    assert loss_of(routes) == expected
    towers = MixtureOfTransformers()
    assert loss_of(begun(two_layers, dense, tmp_path / "t", mot=towers)) == expected
    both = begun(two_layers, dense, tmp_path / "both", mot=towers, mod=plan(1.0, 1.0))
    assert loss_of(both) == expected
    assert both.tokenizer.read_bytes() == dense.tokenizer.read_bytes()
    # It is not the loss of a model that has learned nothing.
    assert expected < read_metrics(dense.metrics)[0]["loss"]


def test_one_plan_starts_another_and_keeps_every_byte_of_blocks_and_routers(
    two_layers, routed, tmp_path
):
    towers = MixtureOfTransformers()
    after = begun(two_layers, routed, tmp_path / "b", mot=towers, mod=plan(0.5, 0.25))
    held, found = variables_of(routed), variables_of(after)
    new = {name for name in found if name not in held}
    assert {name[1:3] for name in new} == {("layers", "0")}
    assert all(chooses_tokens(name) for name in new) and new
    params = [name for name in held if name[0] == "params"]
    for name in params:
        assert np.asarray(found[name]).tobytes() == np.asarray(held[name]).tobytes()
    router = [name for name in params if chooses_tokens(name)]
    assert max(np.abs(held[name]).max() for name in router) > 0
    fewer = begun(two_layers, routed, tmp_path / "c", mot=towers, mod=DENSE[1])
    assert set(variables_of(fewer)) == {n for n in held if not chooses_tokens(n)}


def test_towers_start_no_dense_run(two_layers, routed, tmp_path):
    message = "has towers image, text but the new model's has shared; untie the same"
    with pytest.raises(RunError, match=message):
        begun(two_layers, routed, tmp_path / "run")


def test_what_a_plan_is_for_follows_the_depth_of_the_run_it_starts_from(
    two_layers, dense, data_directory
):
    start = StartingPoint.open(dense.path)
    one_layer = tiny_experiment(data_directory)
    adopted = start.adopted_by(one_layer)
    assert adopted.model == two_layers.model
    assert adopted.mod == one_layer.mod.at_depth(2)


def test_a_source_without_tokenizer_or_checkpoint_is_refused(dense, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(dense.path, copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(RunError, match=r"has no tokenizer\.json, so what its text ids"):
        StartingPoint.open(copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError, match="neither checkpoints/ nor weights/"):
        StartingPoint.open(copy)
