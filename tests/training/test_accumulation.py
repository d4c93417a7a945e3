"""A step in parts is the step on all rows, in less memory."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding

from experiments.benchmark.random_rows import random_batch
from tests.models.tiny_model import routed_in
from tests.training.tiny_experiment import tiny_experiment
from unimod_jax.models import MixtureOfDepths, UnifiedModel
from unimod_jax.parallel import MeshConfig, ShardingRules, make_mesh
from unimod_jax.parallel.collectives import collective_bytes
from unimod_jax.training import Assembly, TrainingConfig, training_step
from unimod_jax.training.accumulation import check_parts, in_parts
from unimod_jax.training.state import make_state

ROWS = 8


def prepared(routing):
    """A tiny model of one task, its state under plain SGD, and full random rows."""
    experiment = dataclasses.replace(tiny_experiment(Path()), mod=routing)
    assembly = Assembly(experiment)
    batch = random_batch(assembly)
    model, optimizer = UnifiedModel(assembly.spec), optax.sgd(0.1)
    state, _ = make_state(
        *(model, optimizer, batch, 0), make_mesh(MeshConfig()), ShardingRules()
    )

    def step(parts):
        return jax.jit(
            training_step(
                *(model, experiment.objective, optimizer, assembly.task_weights),
                parts,
            )
        )

    return step, state, batch


@pytest.fixture(scope="module")
def dense():
    return prepared(MixtureOfDepths())


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_give_the_loss_and_the_parameters_of_all_rows(dense, parts):
    step, state, batch = dense
    whole, metrics = step(1)(state, batch)
    in_turn, metrics_in_turn = step(parts)(state, batch)
    for name in ("loss", "gradient_norm", "text_to_image/image_loss"):
        np.testing.assert_allclose(metrics_in_turn[name], metrics[name], rtol=1e-5)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole.params, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        whole.params,
        in_turn.params,
    )


def test_parts_take_less_temporary_memory(dense):
    step, state, batch = dense
    whole, in_turn = (
        step(parts).lower(state, batch).compile().memory_analysis().temp_size_in_bytes
        for parts in (1, 4)
    )
    assert in_turn < 0.5 * whole


def test_thresholds_follow_the_data_part_by_part():
    step, state, batch = prepared(
        routed_in(
            (0,), ("text_to_image", "image_to_text"), keep_ratio=0.5, num_layers=1
        )
    )
    after, metrics = step(4)(state, batch)
    assert np.isfinite(metrics["loss"])
    kept = [value for name, value in metrics.items() if name.startswith("kept/")]
    assert kept
    assert jax.tree.structure(after.router_state) == jax.tree.structure(
        state.router_state
    )
    changed = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), after.router_state, state.router_state
    )
    assert any(jax.tree.leaves(changed))


def test_part_p_has_every_so_many_rows_from_p_on():
    rows_B2 = np.arange(12).reshape(6, 2)
    parts = in_parts({"a": rows_B2}, 3)["a"]
    np.testing.assert_array_equal(parts[0], rows_B2[[0, 3]])
    np.testing.assert_array_equal(parts[2], rows_B2[[2, 5]])


def test_no_row_moves_to_another_device():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = jax.ShapeDtypeStruct(
        (16, 3), jnp.int32, sharding=NamedSharding(mesh, jax.P("data"))
    )
    of_parts = NamedSharding(mesh, jax.P(None, "data"))
    split = jax.jit(lambda rows: in_parts(rows, 2), out_shardings=of_parts)
    assert collective_bytes(split.lower(rows).compile().as_text(), 4) == {}


def test_rows_that_do_not_divide_are_refused_in_a_sentence():
    check_parts({"text_to_image": 12}, 3, 4)
    with pytest.raises(
        ValueError, match=r"12 rows of text_only .* 5 equal parts; chan"
    ):
        check_parts({"text_to_image": 20, "text_only": 12}, 5)
    with pytest.raises(ValueError, match=r"12 rows .* in 2 equal parts over 4 devices"):
        check_parts({"text_only": 12}, 2, 4)


def test_a_step_has_at_least_one_part():
    with pytest.raises(ValueError, match=r"training.accumulation_steps is 0"):
        TrainingConfig(accumulation_steps=0)
