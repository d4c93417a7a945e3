"""The optimiser: schedules in closed form, and what is decayed, clipped and slowed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from tests.models.tiny_model import (
    abstract_variables,
    random_batch,
    routed_in,
    tiny_spec,
)
from unimod_jax.objectives import NextToken
from unimod_jax.training import TrainingConfig
from unimod_jax.training.optimizer import learning_rate, make_optimizer

pytestmark = pytest.mark.standard_promotion("optax: schedules and Adam's step count")


def rates(steps: int, **config: object) -> np.ndarray:
    schedule = learning_rate(TrainingConfig(steps=steps, **config))
    return np.asarray([float(schedule(step)) for step in range(steps + 1)])


# --- The schedule ---------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "constant"])
def test_the_rate_rises_in_a_line_from_zero_to_its_peak(schedule: str):
    found = rates(50, schedule=schedule, warmup_steps=10, learning_rate=0.3)
    np.testing.assert_allclose(found[:11], 0.03 * np.arange(11), rtol=1e-6)
    assert found.argmax() == 10 or schedule == "constant"


def test_cosine_ends_at_the_end():
    found = rates(
        50, schedule="cosine", warmup_steps=10, learning_rate=0.3, final_learning_rate=0
    )
    share = np.arange(41) / 40
    np.testing.assert_allclose(
        found[10:], 0.15 * (1 + np.cos(np.pi * share)), atol=1e-7
    )
    lifted = rates(
        50,
        schedule="cosine",
        warmup_steps=10,
        learning_rate=0.3,
        final_learning_rate=0.1,
    )
    np.testing.assert_allclose(
        lifted[10:], 0.1 + 0.1 * (1 + np.cos(np.pi * share)), atol=1e-7
    )


def test_exponential_loses_the_same_share_every_step():
    found = rates(
        50,
        schedule="exponential",
        warmup_steps=10,
        learning_rate=0.3,
        final_learning_rate=0.003,
    )
    expected = 0.3 * 0.01 ** (np.arange(41) / 40)
    np.testing.assert_allclose(found[10:], expected, rtol=1e-5)


def test_constant_stays_at_its_peak():
    found = rates(50, schedule="constant", warmup_steps=10, learning_rate=0.3)
    np.testing.assert_allclose(found[10:], 0.3, rtol=1e-6)


def test_without_warm_up_the_first_step_has_the_peak():
    assert rates(5, warmup_steps=0, learning_rate=0.3)[0] == pytest.approx(0.3)


def test_a_run_shorter_than_its_warm_up_reaches_the_peak_at_its_last_step():
    found = rates(5, warmup_steps=100, learning_rate=0.4)
    np.testing.assert_allclose(found[:5], 0.1 * np.arange(5), rtol=1e-6)


# --- What is decayed, clipped and slowed ----------------------------------------------


def flat(tree: object) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def model_parameters() -> dict:
    """Everything that an optimiser may have to tell apart, all ones."""
    routing = routed_in(
        (1,),
        ("text_to_image", "image_to_text"),
        keep_ratio=0.5,
        causal_rule="predictor",
    )
    spec = tiny_spec(routing=routing, norm="layer", biases=True, qk_norm="layer")
    abstract = abstract_variables(spec, random_batch(NextToken(), spec))["params"]
    return jax.tree.map(
        lambda leaf: jnp.ones(leaf.shape, leaf.dtype), nn.unbox(abstract)
    )


def one_update(params: dict, gradient: float, **config: object) -> dict:
    """Parameter -> the first update, by path."""
    optimizer = make_optimizer(
        TrainingConfig(steps=10, warmup_steps=0, schedule="constant", **config)
    )
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return flat(updates)


def test_norms_biases_and_routers_are_not_decayed():
    updates = one_update(
        model_parameters(), 0.0, learning_rate=0.5, weight_decay=0.1, clip_norm=0.0
    )
    decayed = {name for name, update in updates.items() if np.any(update)}
    free = {
        name
        for name in updates
        if any(part in name for part in ("norm", "bias", "routers_", "choices_"))
    }
    for part in ("norm", "bias", "routers_", "choices_"):
        assert any(part in name for name in free), part
    assert decayed == set(updates) - free
    for name in decayed:
        np.testing.assert_allclose(updates[name], -0.5 * 0.1, rtol=1e-6)


def test_the_routers_rate_is_that_of_routers_and_predictors():
    config = {"learning_rate": 0.5, "weight_decay": 0.0, "clip_norm": 0.0}
    params = model_parameters()
    same = one_update(params, 1.0, **config)
    slow = one_update(params, 1.0, router_learning_rate_ratio=0.1, **config)
    of_routers = {name for name in same if "routers_" in name or "choices_" in name}
    assert any("predictor" in name for name in of_routers)
    for name, update in same.items():
        np.testing.assert_allclose(update, -0.5, rtol=1e-4, err_msg=name)
        ratio = 0.1 if name in of_routers else 1.0
        np.testing.assert_allclose(slow[name], ratio * update, rtol=1e-4, err_msg=name)


def clipped_gradient(clip_norm: float) -> np.ndarray:
    """The gradient (3, 4), of norm 5, as Adam's first moment has seen it."""
    optimizer = make_optimizer(
        TrainingConfig(steps=10, warmup_steps=0, beta1=0.5, clip_norm=clip_norm)
    )
    params = {"kernel": jnp.zeros(2)}
    gradient = {"kernel": jnp.asarray([3.0, 4.0])}
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    [moment] = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
        if ".mu" in jax.tree_util.keystr(path)
    ]
    return 2.0 * np.asarray(moment)


@pytest.mark.parametrize(
    ("clip_norm", "expected"),
    [(0.0, (3.0, 4.0)), (1.0, (0.6, 0.8)), (10.0, (3.0, 4.0))],
)
def test_gradients_are_clipped_to_their_norm_and_zero_never_clips(clip_norm, expected):
    np.testing.assert_allclose(clipped_gradient(clip_norm), expected, rtol=1e-5)


def test_the_norm_that_clips_is_that_of_routers_and_the_rest_together():
    optimizer = make_optimizer(TrainingConfig(steps=10, beta1=0.5, clip_norm=1.0))
    params = {"routers_task": jnp.zeros(1), "kernel": jnp.zeros(1)}
    gradient = {"routers_task": jnp.asarray([3.0]), "kernel": jnp.asarray([4.0])}
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    moments = optax.tree.get_all_with_path(state, "mu")
    seen = sorted(
        float(leaf[0]) for _, tree in moments for leaf in jax.tree.leaves(tree)
    )
    np.testing.assert_allclose(seen, [0.3, 0.4], rtol=1e-5)


# --- What is kept ---------------------------------------------------------------------


def test_momentum_in_bfloat16_takes_half_and_moves_alike():
    params = {"kernel": jnp.linspace(-1.0, 1.0, 64).reshape(8, 8)}
    gradient = jax.tree.map(jnp.cos, params)
    moved, kept = {}, {}
    for dtype in ("float32", "bfloat16"):
        config = TrainingConfig(
            steps=10, warmup_steps=0, learning_rate=1e-2, momentum_dtype=dtype
        )
        optimizer = make_optimizer(config)
        state, moved[dtype] = optimizer.init(params), params
        for _ in range(3):
            updates, state = optimizer.update(gradient, state, moved[dtype])
            moved[dtype] = optax.apply_updates(moved[dtype], updates)
        kept[dtype] = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert kept["bfloat16"] == 0.75 * kept["float32"]  # two bytes of eight
    assert all(leaf.dtype == jnp.float32 for leaf in moved["bfloat16"].values())
    np.testing.assert_allclose(
        moved["bfloat16"]["kernel"], moved["float32"]["kernel"], atol=1e-3
    )


def test_a_momentum_of_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"momentum_dtype 'float16'.*choose"):
        TrainingConfig(momentum_dtype="float16")
