"""A prepared step is the loop's: the same bits, measured, and with donated states."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.benchmark.random_rows import random_batch
from experiments.benchmark.workload import Size, sized
from unimod_jax.parallel import MeshConfig, make_mesh
from unimod_jax.training import Assembly, make_trainer
from unimod_jax.training.prepared_step import (
    compile_step,
    prepare_step,
    time_steps,
)
from unimod_jax.training.sharded_step import (
    abstract_state,
    placed_batch,
    placed_state,
)

ROWS = {"text_to_image": 2, "image_to_text": 2}
TINY = Size(ROWS, width=16, num_layers=2, head_dim=8, image_side=4, dtype="float32")
TWO_DEVICES = MeshConfig(data=2)


@pytest.fixture(scope="module")
def assembly() -> Assembly:
    experiment = sized("emu3", "mot_unimod", TINY)
    return Assembly(dataclasses.replace(experiment, mesh=TWO_DEVICES))


@pytest.mark.standard_promotion("optax: Adam's bias correction")
def test_the_step_that_is_timed_is_the_one_that_trains(assembly: Assembly):
    rows = random_batch(assembly)
    prepared = prepare_step(assembly, make_mesh(TWO_DEVICES), rows)
    trainer = make_trainer(assembly, iter(()), rows)
    first = prepared.state
    for _ in range(2):
        prepared.start()
        trainer.state, metrics = trainer.step(trainer.state, rows)
    jax.tree.map(
        np.testing.assert_array_equal,
        (prepared.state.params, prepared.metrics),
        (trainer.state.params, metrics),
    )
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))
    for ours, theirs in zip(
        *map(jax.tree.leaves, (prepared.state, trainer.state)), strict=True
    ):
        assert ours.sharding == theirs.sharding

    taken = time_steps({"only": prepared}, seconds=0.0, fewest=2)
    assert [len(seconds) for seconds in taken.values()] == [2]
    assert int(prepared.state.step) == 2 + 2 + 2  # two to warm up


@pytest.mark.standard_promotion("optax: Adam's bias correction")
def test_shapes_alone_are_compiled_to_the_same_program(assembly: Assembly):
    mesh, rules = make_mesh(TWO_DEVICES), assembly.experiment.sharding
    state = placed_state(abstract_state(assembly), mesh, rules)
    of_shapes = compile_step(assembly, mesh, state, placed_batch(assembly, mesh))
    of_arrays = prepare_step(assembly, mesh, random_batch(assembly)).compiled
    for field in ("argument_bytes", "temporary_bytes", "needed_bytes"):
        assert getattr(of_shapes, field) == getattr(of_arrays, field) > 0
    assert of_shapes.compiled_flops == of_arrays.compiled_flops > 0
    assert min(of_shapes.trace_seconds, of_shapes.compile_seconds) > 0
    assert of_shapes.seconds == of_shapes.trace_seconds + of_shapes.compile_seconds


def test_rows_that_do_not_divide_are_refused(assembly: Assembly):
    mesh = make_mesh(MeshConfig(data=4))
    with pytest.raises(ValueError, match="text_to_image"):
        prepare_step(assembly, mesh, random_batch(assembly))
