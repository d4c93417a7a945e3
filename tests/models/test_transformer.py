"""A plan runs layer after layer, however it is scanned, rematerialised or routed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.models.tiny_model import (
    DENSE_DEPTH,
    QUICK_TO_COMPILE,
    flat,
    forward,
    random_batch,
    random_variables,
    tiny_spec,
)
from unimod_jax.layout import rotary_phase
from unimod_jax.layout.token_batch import AttentionGeometry
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import MixtureOfDepths, Transformer, UnifiedModel
from unimod_jax.models.transformer import GroupGeometry, Layer
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import TEXT_ONLY, TEXT_TO_IMAGE, NextToken

# Layers 0 and 1 are dense, layers 2 and 3 route one of the two tasks.
LAST_HALF = MixtureOfDepths("last_half", (TEXT_TO_IMAGE,), keep_ratio=0.5)
TASKS = (TEXT_TO_IMAGE, TEXT_ONLY)


@pytest.fixture(scope="module")
def routed_spec():
    return tiny_spec(COMPONENTS, LAST_HALF, num_layers=4)


@pytest.fixture(scope="module")
def batch(routed_spec):
    return random_batch(NextToken(), routed_spec, tasks=TASKS)


@pytest.fixture(scope="module")
def variables(routed_spec, batch):
    return random_variables(routed_spec, batch)


def hidden_and_geometry(batch, width, head_dim):
    hidden, geometry = {}, {}
    for task, group in batch.items():
        key = jax.random.key(len(task))
        hidden[task] = {
            name: jax.random.normal(key, (*stream.position_BT.shape, width))
            for name, stream in group.streams.items()
        }
        streams = {
            name: AttentionGeometry(
                stream.position_BT,
                stream.window_start_BT,
                stream.window_end_BT,
                rotary_phase(stream.position_BT, head_dim, 100.0),
            )
            for name, stream in group.streams.items()
        }
        geometry[task] = GroupGeometry(streams, group.layout)
    return hidden, geometry


@pytest.fixture(scope="module")
def stack_variables(variables):
    """The variables of the transformer alone."""
    return {name: tree["transformer"] for name, tree in variables.items()}


@pytest.fixture(scope="module")
def scanned(routed_spec, batch, stack_variables):
    config, untying = routed_spec.config.block_config(), routed_spec.untying
    hidden, geometry = hidden_and_geometry(batch, config.width, config.head_dim)
    stack = Transformer(config, untying, routed_spec.plan, remat=False)
    train = jax.jit(
        functools.partial(stack.apply, mutable=[STATE]),
        compiler_options=QUICK_TO_COMPILE,
    )
    (after, reports), changed = train(stack_variables, hidden, geometry)
    return hidden, geometry, after, reports, changed[STATE]


@functools.cache
def layer_apply(routed_spec, run):
    """Jitted Layer.apply of a run's layers."""
    config, untying = routed_spec.config.block_config(), routed_spec.untying
    layer = Layer(config, untying, routed_spec.plan[2 * run])
    return jax.jit(layer.apply, compiler_options=QUICK_TO_COMPILE)


def layer_variables(stack_variables, run, index):
    """One layer's slice of a run's stacked variables."""
    return {
        name: jax.tree.map(lambda leaf: leaf[index], tree.get(f"run_{run}", {}))
        for name, tree in stack_variables.items()
    }


def test_a_scanned_run_is_a_loop_over_its_layers(routed_spec, stack_variables, scanned):
    hidden, geometry, after, reports, _ = scanned
    assert len(reports) == 2
    for run in range(2):
        for index in range(2):
            own = layer_variables(stack_variables, run, index)
            hidden, kept = layer_apply(routed_spec, run)(own, hidden, geometry)
            for task, streams in kept.items():
                for name, kept_BT in streams.items():
                    np.testing.assert_array_equal(
                        reports[run][task][name][index], kept_BT
                    )
    for expected, got in zip(
        jax.tree.leaves(hidden), jax.tree.leaves(after), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_only_routed_tasks_of_routed_layers_report_what_they_kept(scanned, batch):
    _, _, _, reports, _ = scanned
    assert reports[0] == {}
    assert set(reports[1]) == {TEXT_TO_IMAGE}
    for name, kept_LBT in reports[1][TEXT_TO_IMAGE].items():
        position_BT = batch[TEXT_TO_IMAGE].streams[name].position_BT
        assert kept_LBT.shape == (2, *position_BT.shape)
        assert not (np.asarray(kept_LBT) & (np.asarray(position_BT) < 0)).any()


def test_tokens_a_layer_skips_leave_it_unchanged(routed_spec, stack_variables, scanned):
    hidden, geometry, *_ = scanned
    own = layer_variables(stack_variables, 1, 0)
    after, kept = layer_apply(routed_spec, 1)(own, hidden, geometry)
    for name, kept_BT in kept[TEXT_TO_IMAGE].items():
        before = np.asarray(hidden[TEXT_TO_IMAGE][name])
        skipped_BT = ~np.asarray(kept_BT)
        assert skipped_BT.any()
        assert not skipped_BT.all()
        np.testing.assert_array_equal(
            np.asarray(after[TEXT_TO_IMAGE][name])[skipped_BT], before[skipped_BT]
        )
        change = np.abs(np.asarray(after[TEXT_TO_IMAGE][name]) - before)
        assert change[~skipped_BT].min(axis=0).max() > 0


def test_a_task_without_a_route_runs_the_layer_densely(
    routed_spec, stack_variables, scanned
):
    hidden, geometry, *_ = scanned
    own = layer_variables(stack_variables, 1, 0)
    block_only = {"params": {"block": own["params"]["block"]}, STATE: {}}
    after, _ = layer_apply(routed_spec, 1)(own, hidden, geometry)
    expected, _ = layer_apply(routed_spec, 0)(block_only, hidden, geometry)
    for name in after[TEXT_ONLY]:
        np.testing.assert_array_equal(after[TEXT_ONLY][name], expected[TEXT_ONLY][name])
        changed = after[TEXT_TO_IMAGE][name] != expected[TEXT_TO_IMAGE][name]
        assert np.asarray(changed).any()


def test_thresholds_move_in_training(stack_variables, scanned):
    before, after = flat(stack_variables[STATE]), flat(scanned[-1])
    assert before.keys() == after.keys()
    for path, state_L2 in after.items():
        # One (decayed quantile, decayed weight) per layer of the run.
        assert state_L2.shape == (2, 2)
        np.testing.assert_array_equal(before[path], 0.0)
        np.testing.assert_array_equal(state_L2[:, 1], 0.5)
        assert (np.abs(state_L2[:, 0]) > 0).all(), path


def test_layers_of_a_run_start_from_different_draws():
    spec = tiny_spec((), MixtureOfDepths((0, 1), (TEXT_ONLY,), 0.5))
    batch = random_batch(NextToken(), spec, tasks=(TEXT_ONLY,))
    router_name = f"transformer/run_0/routers_{TEXT_ONLY}/text+image"

    @jax.jit
    def some_initial_variables():
        # The compiler drops the rest.
        initial = nn.unbox(UnifiedModel(spec).init(jax.random.key(0), batch))
        params = flat(initial["params"])
        query = params["transformer/run_0/block/query/shared"]
        return query, params[router_name], jax.tree.leaves(initial[STATE])

    query, router, thresholds = some_initial_variables()
    assert np.abs(query[0] - query[1]).max() > 0.01
    assert np.abs(router[0] - router[1]).max() > 0
    assert 0 < np.abs(router).max() < 0.01
    assert len(thresholds) == 1
    np.testing.assert_array_equal(thresholds[0], 0.0)


def loss_and_gradient(spec, variables, batch):
    def loss(params):
        outputs, _ = UnifiedModel(spec).apply({**variables, "params": params}, batch)
        logits = jax.tree.leaves([output.logits for output in outputs.values()])
        return sum(jnp.mean(jnp.square(x)) for x in logits)

    differentiated = jax.jit(
        jax.value_and_grad(loss), compiler_options=QUICK_TO_COMPILE
    )
    return differentiated(variables["params"])


@pytest.fixture(scope="module")
def plain_and_remat():
    """Loss and gradient of a shared-routed layer, without and with recomputation."""
    both = MixtureOfDepths((0, 1), (TEXT_TO_IMAGE,), keep_ratio=0.5)
    results = []
    for remat in (False, True):
        spec = tiny_spec((), both, remat=remat)
        batch = random_batch(NextToken(), spec, tasks=(TEXT_TO_IMAGE,))
        variables = random_variables(spec, batch)
        results.append(loss_and_gradient(spec, variables, batch))
    return results


def test_recomputation_changes_neither_loss_nor_gradients(plain_and_remat):
    (loss, gradient), (remat_loss, remat_gradient) = plain_and_remat
    np.testing.assert_allclose(remat_loss, loss, rtol=1e-6)
    for path, expected in flat(gradient).items():
        np.testing.assert_allclose(
            flat(remat_gradient)[path], expected, rtol=1e-5, atol=1e-6, err_msg=path
        )


def test_gradients_reach_the_router_of_every_layer_through_its_weights(plain_and_remat):
    (_, gradient), _ = plain_and_remat
    routers = {p: g for p, g in flat(gradient).items() if "routers" in p}
    assert len(routers) == 1
    for path, gradient_LD in routers.items():
        assert (np.abs(gradient_LD).max(axis=1) > 1e-6).all(), path


def test_keeping_everything_with_weight_one_is_the_dense_model_bit_for_bit():
    keep_all = MixtureOfDepths((0, 1), (TEXT_TO_IMAGE,), keep_ratio=1.0)
    routed, dense = tiny_spec((), keep_all), tiny_spec((), DENSE_DEPTH)
    batch = random_batch(NextToken(), routed, tasks=(TEXT_TO_IMAGE,))
    params = random_variables(routed, batch)["params"]
    layers = params["transformer"]["run_0"]
    router = f"routers_{TEXT_TO_IMAGE}"
    # A score of zero is a weight of exactly one.
    layers[router] = jax.tree.map(jnp.zeros_like, layers[router])
    outputs, (report,) = forward(routed)({"params": params}, batch)
    expected, _ = forward(dense)(
        {"params": params | {"transformer": {"run_0": {"block": layers["block"]}}}},
        batch,
    )
    group = batch[TEXT_TO_IMAGE]
    for name, logits in outputs[TEXT_TO_IMAGE].logits.items():
        held_BT = np.asarray(group.streams[name].position_BT) >= 0
        np.testing.assert_array_equal(
            np.asarray(logits)[held_BT],
            np.asarray(expected[TEXT_TO_IMAGE].logits[name])[held_BT],
        )
        np.testing.assert_array_equal(
            report[TEXT_TO_IMAGE][name], np.stack([held_BT] * 2)
        )
