"""A checkpoint is of a run, not of a mesh: it loads onto any, to the last bit."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.command_line import override
from tests.training.tiny_experiment import tiny_experiment, with_mesh
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh
from unimod_jax.training import Assembly, RunDirectory, RunError, train
from unimod_jax.training.checkpoint import RunCheckpoints
from unimod_jax.training.run_directory import experiment_from_json, experiment_to_json
from unimod_jax.training.sharded_step import abstract_state, placed_state
from unimod_jax.training.state import TrainState


def on_another_mesh(run: RunDirectory, **axes: int) -> TrainState:
    """The shapes of a run's state, placed on another mesh."""
    boxed = abstract_state(Assembly(run.read_experiment()))
    return placed_state(boxed, make_mesh(MeshConfig(**axes)), ShardingRules())


def test_parameters_and_optimizer_are_the_same_on_every_mesh(
    data_directory: Path, tmp_path: Path
):
    experiment = with_mesh(tiny_experiment(data_directory, steps=2), data=2, tensor=2)
    run = train(experiment, tmp_path)
    restored = {}
    for axes in ({}, {"fsdp": 8}, {"fsdp": 2, "sequence": 2, "tensor": 2}):
        checkpoints = RunCheckpoints(run.checkpoints, experiment.training)
        loaded = checkpoints.restore(on_another_mesh(run, **axes))
        checkpoints.close()
        assert loaded is not None and loaded[1] == 2
        restored[str(axes)] = loaded[0]
    one, *others = (
        jax.tree.leaves((x.params, x.optimizer_state)) for x in restored.values()
    )
    assert len(jax.tree.leaves(others)[0].sharding.device_set) == 8
    for other in others:
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_mesh_and_rules_may_change_and_nothing_else(
    data_directory: Path, tmp_path: Path
):
    experiment, run = tiny_experiment(data_directory), RunDirectory(tmp_path)
    run.claim(experiment)
    whole = dataclasses.replace(
        with_mesh(experiment, sequence=-1), sharding=ShardingRules(vocab=None)
    )
    run.claim(whole)
    with pytest.raises(RunError, match=r"\(training.seed is 0 there but 1 here\)"):
        run.claim(
            dataclasses.replace(
                whole, training=dataclasses.replace(whole.training, seed=1)
            )
        )


@pytest.mark.parametrize(
    ("options", "mesh", "rules"),
    [
        (["--mesh.sequence", "2"], MeshConfig(sequence=2), ShardingRules()),
        (["--mesh.data", "-1"], MeshConfig(data=-1), ShardingRules()),
        (["--sharding.vocab", "None"], MeshConfig(), ShardingRules(vocab=None)),
        (
            ["--sharding.token", "None", "--sharding.mlp", "sequence", "tensor"],
            MeshConfig(),
            ShardingRules(token=None, mlp=("sequence", "tensor")),
        ),
    ],
    ids=str,
)
def test_options_of_the_command_line_are_read_back_from_the_config(
    data_directory: Path, options, mesh, rules
):
    experiment = override(tiny_experiment(data_directory), options, "train")
    assert (experiment.mesh, experiment.sharding) == (mesh, rules)
    assert experiment_from_json(experiment_to_json(experiment)) == experiment


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mesh.data", "-1", "--mesh.fsdp", "-1"], ["all -1", "only one axis"]),
        (["--sharding.embed", "tensor"], ["sharding.embed", "sharding.heads"]),
        (["--sharding.vocab", "model"], ["is 'model'; give one of", "sharding.vocab"]),
    ],
    ids=str,
)
def test_a_mesh_or_rules_that_cannot_be_are_refused(
    data_directory: Path, options, words
):
    with pytest.raises(RunError) as refused:
        override(tiny_experiment(data_directory), options, "train")
    assert all(word in str(refused.value) for word in words)
