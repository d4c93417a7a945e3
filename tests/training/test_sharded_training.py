"""The same experiment on one device and on eight gives the same losses."""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.command_line import load_experiment
from tests.training.tiny_experiment import tiny_experiment, with_mesh
from unimod_jax.data import TextTokenizer, open_split, training_batches
from unimod_jax.models import MixtureOfDepths, MixtureOfTransformers
from unimod_jax.objectives import ImageDiffusion, MaskedImage
from unimod_jax.training import Assembly, Experiment, Trainer, make_trainer


def losses_and_trainer(
    experiment: Experiment, num_steps: int
) -> tuple[np.ndarray, Trainer]:
    """The losses of the first steps."""
    assembly = Assembly(experiment)
    records = open_split(experiment.data, experiment.data.train_split)
    captions = [text for record in records for text in record.texts]
    dataset = training_batches(
        experiment.data,
        assembly.layouts,
        assembly.rows,
        records,
        TextTokenizer.train(captions, assembly.vocabulary),
    )
    trainer = make_trainer(assembly, iter(dataset), next(iter(dataset)))
    losses = []
    for _ in range(num_steps):
        trainer.state, metrics = trainer.step(trainer.state, next(trainer.batches))
        losses.append(float(metrics["loss"]))
    return np.asarray(losses), trainer


def test_the_demo_trains_alike_on_eight_devices(data_directory: Path):
    demo = load_experiment("toy/demo")
    data = dataclasses.replace(demo.data, directory=str(data_directory), batch_size=36)
    demo = dataclasses.replace(demo, data=data)
    one, _ = losses_and_trainer(demo, 3)
    eight, trainer = losses_and_trainer(with_mesh(demo, data=2, fsdp=2, tensor=2), 3)
    np.testing.assert_allclose(eight, one, rtol=2e-4)
    block = trainer.state.params["transformer"]["run_0"]["block"]
    query = block["query"]["text"]["kernel"]
    assert len(query.sharding.device_set) == 8
    assert query.addressable_shards[0].data.size == query.size // 4


MODELS = {
    "mot": {"mod": MixtureOfDepths()},
    "unimod": {"mot": MixtureOfTransformers(())},
    "mot_unimod": {},
}
MIXED = {"fsdp": 2, "sequence": 2, "tensor": 2}
# Of twelve text tokens a routed layer keeps six, which do not divide by four; image
# tokens do.
SHARDINGS = [
    ("mot", {"sequence": 4}),
    ("mot", {"tensor": 2}),
    ("mot", MIXED),
    ("unimod", {"data": 8}),
    ("unimod", {"sequence": 4}),
    ("unimod", MIXED),
    ("mot_unimod", {"fsdp": 8}),
    ("mot_unimod", {"tensor": 2}),
    ("mot_unimod", MIXED),
]


@functools.cache
def losses_on_one_device(data_directory: Path, model: str) -> np.ndarray:
    experiment = dataclasses.replace(tiny_experiment(data_directory), **MODELS[model])
    return losses_and_trainer(experiment, 2)[0]


@pytest.mark.parametrize(("model", "axes"), SHARDINGS, ids=str)
def test_every_kind_of_sharding_gives_the_same_losses(
    data_directory: Path, model: str, axes
):
    experiment = dataclasses.replace(tiny_experiment(data_directory), **MODELS[model])
    sharded, trainer = losses_and_trainer(with_mesh(experiment, **axes), 2)
    assert len(trainer.state.step.sharding.device_set) == math.prod(axes.values())
    wanted = losses_on_one_device(data_directory, model)
    np.testing.assert_allclose(sharded, wanted, rtol=1e-4)


@pytest.mark.parametrize("objective", [MaskedImage(), ImageDiffusion()], ids=str)
def test_every_objective_learns_on_a_mesh(data_directory: Path, objective):
    experiment = tiny_experiment(data_directory, objective, learning_rate=1e-2)
    losses, trainer = losses_and_trainer(with_mesh(experiment, data=2, fsdp=2), 6)
    assert losses[-1] < losses[0]
    assert all(
        bool(jax.numpy.isfinite(leaf).all())
        for leaf in jax.tree.leaves(trainer.state.params)
    )
