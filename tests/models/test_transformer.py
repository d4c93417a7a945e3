"""A plan runs layer after layer, however it is scanned, rematerialised or routed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.models.tiny_model import (
    QUICK_TO_COMPILE,
    flat,
    random_batch,
    random_variables,
    routed_in,
    tiny_spec,
)
from unimod_jax.layout import rotary_phase
from unimod_jax.layout.token_batch import AttentionGeometry
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import Transformer, UnifiedModel
from unimod_jax.models.layer import GroupGeometry, Layer
from unimod_jax.models.transformer import most_kept
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import NextToken

# Layers 0 and 1 are dense, layers 2 and 3 route one of the two tasks.
LAST_HALF = routed_in((2, 3), ("text_to_image",), keep_ratio=0.5, num_layers=4)
TASKS = ("text_to_image", "text_only")


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
    config = routed_spec.config
    hidden, geometry = hidden_and_geometry(batch, config.width, config.head_dim)
    stack = Transformer(
        config, routed_spec.designs, routed_spec.streams, remat="nothing"
    )
    train = jax.jit(
        functools.partial(stack.apply, mutable=[STATE]),
        compiler_options=QUICK_TO_COMPILE,
    )
    (after, reports, _), changed = train(stack_variables, hidden, geometry)
    return hidden, geometry, after, reports, changed[STATE]


@functools.cache
def layer_apply(routed_spec, run):
    """Jitted Layer.apply of a run's layers."""
    config = routed_spec.config
    layer = Layer(config, routed_spec.designs[2 * run], routed_spec.streams)
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
            hidden, (report, _) = layer_apply(routed_spec, run)(own, hidden, geometry)
            of_layer = jax.tree.map(lambda leaf, n=index: leaf[n], reports[run])
            jax.tree.map(np.testing.assert_array_equal, of_layer, report)
    for expected, got in zip(
        jax.tree.leaves(hidden), jax.tree.leaves(after), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_only_routed_tasks_of_routed_layers_report_what_they_kept(scanned, batch):
    _, _, _, reports, _ = scanned
    assert reports[0] == {}
    assert set(reports[1]) == {"text_to_image"}
    for name, report in reports[1]["text_to_image"].items():
        kept_LBT = report.kept_BT
        position_BT = batch["text_to_image"].streams[name].position_BT
        assert kept_LBT.shape == (2, *position_BT.shape)
        assert not (np.asarray(kept_LBT) & (np.asarray(position_BT) < 0)).any()


def test_tokens_a_layer_skips_leave_it_unchanged(routed_spec, stack_variables, scanned):
    hidden, geometry, *_ = scanned
    own = layer_variables(stack_variables, 1, 0)
    after, (report, _) = layer_apply(routed_spec, 1)(own, hidden, geometry)
    for name, routing in report["text_to_image"].items():
        before = np.asarray(hidden["text_to_image"][name])
        skipped_BT = ~np.asarray(routing.kept_BT)
        assert skipped_BT.any()
        assert not skipped_BT.all()
        np.testing.assert_array_equal(
            np.asarray(after["text_to_image"][name])[skipped_BT], before[skipped_BT]
        )
        change = np.abs(np.asarray(after["text_to_image"][name]) - before)
        assert change[~skipped_BT].min(axis=0).max() > 0


def test_a_task_without_a_route_runs_the_layer_densely(
    routed_spec, stack_variables, scanned
):
    hidden, geometry, *_ = scanned
    own = layer_variables(stack_variables, 1, 0)
    block_only = {"params": {"block": own["params"]["block"]}, STATE: {}}
    after, _ = layer_apply(routed_spec, 1)(own, hidden, geometry)
    expected, _ = layer_apply(routed_spec, 0)(block_only, hidden, geometry)
    for name in after["text_only"]:
        np.testing.assert_array_equal(
            after["text_only"][name], expected["text_only"][name]
        )
        changed = after["text_to_image"][name] != expected["text_to_image"][name]
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


def test_layers_of_a_run_start_from_different_draws_and_their_routers_at_zero():
    spec = tiny_spec((), routed_in((0, 1), ("text_only",), 0.5))
    batch = random_batch(NextToken(), spec, tasks=("text_only",))
    router_name = f"transformer/run_0/routers_{'text_only'}/text+image"

    @jax.jit
    def some_initial_variables():
        # The compiler drops the rest.
        initial = nn.unbox(UnifiedModel(spec).init(jax.random.key(0), batch))
        params = flat(initial["params"])
        query = params["transformer/run_0/block/query/shared/kernel"]
        return query, params[router_name], jax.tree.leaves(initial[STATE])

    query, router, thresholds = some_initial_variables()
    assert np.abs(query[0] - query[1]).max() > 0.01
    assert router.shape == (2, 16)
    np.testing.assert_array_equal(router, 0.0)
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
    both = routed_in((0, 1), ("text_to_image",), keep_ratio=0.5)
    results = []
    for remat in ("nothing", "all"):
        spec = tiny_spec((), both, remat=remat)
        batch = random_batch(NextToken(), spec, tasks=("text_to_image",))
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


def test_what_is_kept_is_counted_over_all_streams_of_every_task():
    spec = tiny_spec(COMPONENTS)
    layout = random_batch(NextToken(), spec, tasks=("text_to_image",))[
        "text_to_image"
    ].layout
    text, image = (layout.num_tokens(name) for name in ("text", "image"))
    geometry = {task: GroupGeometry({}, layout) for task in TASKS}

    def kept(routing, tasks=TASKS):
        designs = tiny_spec(COMPONENTS, routing).designs[-1:]
        return most_kept(designs, {task: geometry[task] for task in tasks})

    both = functools.partial(routed_in, (1,), TASKS)
    assert kept(both(keep_ratio=0.2)) == pytest.approx(0.2)
    assert kept(both(keep_ratio=0.0)) == 0.0
    uneven = (0.2 * image + text) / (image + text)
    assert kept(both(keep_ratio=0.2, text_keep_ratio=1.0)) == pytest.approx(uneven)
    one = routed_in((1,), ("text_to_image",), keep_ratio=0.2)
    assert kept(one) == 1.0
    assert kept(one, ("text_to_image",)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("remat_above", "recomputed_runs"), [(0.0, 2), (0.25, 1), (1.0, 0)]
)
def test_layers_that_keep_little_are_not_computed_again(remat_above, recomputed_runs):
    routing = routed_in((1,), ("text_to_image",), keep_ratio=0.2)
    spec = tiny_spec((), routing, remat="all", remat_above=remat_above)
    batch = random_batch(NextToken(), spec, tasks=("text_to_image",))
    variables = random_variables(spec, batch)

    def loss(params):
        outputs, _ = UnifiedModel(spec).apply({**variables, "params": params}, batch)
        return sum(jnp.sum(x) for x in outputs["text_to_image"].hidden.values())

    program = str(jax.make_jaxpr(loss)(variables["params"]))
    assert program.count("prevent_cse=") == recomputed_runs
