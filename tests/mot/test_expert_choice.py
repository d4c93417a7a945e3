"""Experts that choose their tokens, against loops and against a dense masked form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.mot.tiny_block import (
    abstract_params,
    causal_geometry,
    delta_of,
    flat,
    one_row_geometry,
    random_params,
    random_streams,
    tiny_block,
)
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.mot import ExpertChoice, Experts, FeedForward, UntyingMap
from unimod_jax.mot.expert_choice import expert_choice

WIDTH, HIDDEN = 6, 5
# Four rows of seven slots; what is not a token is an empty slot.
VALID = np.array(
    [[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1, 1], [1, 0, 0, 0, 0, 0, 0], [0] * 7], bool
)


def drawn(shapes, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes
    )


def experts(num_experts=3, kind="swiglu", rows_per_group=1, biases=False):
    """The module with drawn parameters, and hidden states for `VALID`."""
    module = ExpertChoice(
        kind, WIDTH, HIDDEN, num_experts, rows_per_group, biases=biases
    )
    x = drawn(jax.ShapeDtypeStruct((*VALID.shape, WIDTH), jnp.float32), seed=0)
    boxed = jax.eval_shape(module.init, jax.random.key(0), x, jnp.asarray(VALID))
    return module, drawn(nn.unbox(boxed)["params"]), x


def numpy_expert(kind, x, p, expert):
    """One expert's network on one token."""
    up = x @ p["up"][expert] + p.get("up_bias", np.zeros((9, HIDDEN)))[expert]
    if kind == "swiglu":
        gate = x @ p["gate"][expert]
        gate = gate + p.get("gate_bias", np.zeros((9, HIDDEN)))[expert]
        hidden = gate / (1 + np.exp(-gate)) * up
    else:
        inner = np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)
        hidden = 0.5 * up * (1 + np.tanh(inner))
    down = hidden @ p["down"][expert]
    return down + p.get("down_bias", np.zeros((9, WIDTH)))[expert]


def numpy_experts(kind, rows_per_group, params, x_BTD, valid_BT):
    """Group by group, expert by expert, choice by choice."""
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    num_experts = p["router"].shape[1]
    y = np.zeros(x_BTD.shape)
    for first in range(0, len(x_BTD), rows_per_group):
        rows = range(first, first + rows_per_group)
        tokens = [(b, t) for b in rows for t in range(len(valid_BT[b]))]
        tokens = [token for token in tokens if valid_BT[token]]
        scores = {}
        for token in tokens:
            odds = np.exp(np.asarray(x_BTD[token], np.float64) @ p["router"])
            scores[token] = odds / odds.sum()
        for expert in range(num_experts):
            best = sorted(tokens, key=lambda token: -scores[token][expert])
            for token in best[: -(-len(tokens) // num_experts)]:
                said = numpy_expert(kind, np.asarray(x_BTD[token]), p, expert)
                y[token] += scores[token][expert] * said
    return y


@pytest.mark.parametrize("rows_per_group", [1, 2, 4])
@pytest.mark.parametrize("num_experts", [1, 3, 4])
def test_each_expert_takes_its_best_tokens(num_experts, rows_per_group):
    module, params, x = experts(num_experts, rows_per_group=rows_per_group)
    y = module.apply({"params": params}, x, jnp.asarray(VALID))
    expected = numpy_experts("swiglu", rows_per_group, params, np.asarray(x), VALID)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "biases"), [("gelu", False), ("swiglu", True)])
def test_experts_are_networks_of_the_same_kinds(kind, biases):
    module, params, x = experts(kind=kind, biases=biases)
    y = module.apply({"params": params}, x, jnp.asarray(VALID))
    expected = numpy_experts(kind, 1, params, np.asarray(x), VALID)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_choices_by_hand():
    # Five tokens, the third empty, two experts: each takes two of the four.
    score = np.array([[0.9, 0.1], [0.6, 0.4], [1.0, 1.0], [0.2, 0.8], [0.6, 0.4]])
    index, place, weight = expert_choice(
        jnp.asarray(score[None], jnp.float32), jnp.asarray([[1, 1, 0, 1, 1]], bool)
    )
    # The third place is spare; the tie between tokens 1 and 4 goes to the earlier.
    np.testing.assert_array_equal(index[0, :, :2], [[0, 1], [3, 1]])
    np.testing.assert_array_equal(place[0, 0], [0, 1, 3, 3, 2])
    np.testing.assert_array_equal(place[0, 1], [3, 1, 3, 0, 2])
    expected = [[0.9, 0.6, 0, 0, 0], [0, 0.4, 0, 0.8, 0]]
    np.testing.assert_allclose(weight[0], expected, rtol=1e-6)


def test_a_token_nobody_chooses_gets_zero():
    module, params, x = experts(num_experts=4)
    y = module.apply({"params": params}, x, jnp.asarray(VALID))
    _, _, weight = expert_choice(
        jax.nn.softmax(x @ params["router"]), jnp.asarray(VALID)
    )
    unchosen = np.asarray(weight).max(axis=1) == 0.0
    assert (unchosen & VALID).any()
    np.testing.assert_array_equal(np.asarray(y)[unchosen], 0.0)


@pytest.mark.parametrize("rows_per_group", [1, 2])
def test_gradients_are_those_of_all_experts_on_all_tokens_masked(rows_per_group):
    module, params, x = experts(num_experts=3, rows_per_group=rows_per_group)
    valid = jnp.asarray(VALID)
    cotangent = drawn(jax.ShapeDtypeStruct(x.shape, jnp.float32), seed=2)
    groups = (len(VALID) // rows_per_group, -1)

    def chosen_by_experts(score_BTK):
        score_UMK = score_BTK.reshape(*groups, 3)
        _, _, weight_UKM = expert_choice(score_UMK, valid.reshape(groups))
        return weight_UKM.swapaxes(1, 2).reshape(score_BTK.shape) > 0

    def dense(params, x):
        score_BTK = jax.nn.softmax(x @ params["router"], axis=-1)
        weight_BTK = jnp.where(chosen_by_experts(score_BTK), score_BTK, 0.0)
        gate = jnp.einsum("BTD,KDF->BTKF", x, params["gate"])
        up = jnp.einsum("BTD,KDF->BTKF", x, params["up"])
        hidden = jax.nn.silu(gate) * up
        return jnp.einsum("BTKF,KFD,BTK->BTD", hidden, params["down"], weight_BTK)

    def sparse(params, x):
        return module.apply({"params": params}, x, valid)

    def loss(network, params, x):
        return jnp.sum(network(params, x) * cotangent)

    expected = jax.grad(loss, argnums=(1, 2))(dense, params, x)
    actual = jax.grad(loss, argnums=(1, 2))(sparse, params, x)
    for path, gradient in flat({"params": expected[0], "x": expected[1]}).items():
        other = flat({"params": actual[0], "x": actual[1]})[path]
        np.testing.assert_allclose(other, gradient, rtol=1e-3, atol=1e-4, err_msg=path)
        assert np.abs(gradient).max() > 0.1, path


def test_what_stands_in_empty_slots_and_how_many_there_are_changes_nothing():
    module, params, x = experts(num_experts=3)
    y = module.apply({"params": params}, x, jnp.asarray(VALID))
    loud = jnp.where(VALID[..., None], x, 100.0)
    louder = jnp.pad(loud, ((0, 0), (0, 5), (0, 0)), constant_values=100.0)
    valid = jnp.pad(jnp.asarray(VALID), ((0, 0), (0, 5)))
    again = module.apply({"params": params}, louder, valid)
    np.testing.assert_allclose(again[:, :7], y, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(again[~np.asarray(valid)], 0.0)


def test_a_single_expert_is_the_plain_network():
    module, params, x = experts(num_experts=1)
    plain = {n: {"kernel": params[n][0]} for n in ("gate", "up", "down")}
    every = jnp.ones(VALID.shape, bool)
    np.testing.assert_allclose(
        module.apply({"params": params}, x, every),
        FeedForward("swiglu", WIDTH, HIDDEN).apply({"params": plain}, x, every),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_later_token_can_take_the_place_of_an_earlier_one():
    # Why experts must not generate.
    module, params, x = experts(num_experts=4)
    every = jnp.ones(VALID.shape, bool)
    y = module.apply({"params": params}, x, every)
    changed = module.apply({"params": params}, x.at[:, -1].multiply(-10.0), every)
    assert np.abs(y[:, :-1] - changed[:, :-1]).max() > 0.1


def test_groups_that_do_not_fill_the_batch_are_refused():
    with pytest.raises(ValueError, match=r"3 does not divide the 4 rows"):
        experts(rows_per_group=3)


def test_experts_are_stacked_along_an_axis_of_their_own():
    block = tiny_block(
        UntyingMap.tied((TEXT, IMAGE)), Experts(expert_towers=("shared",))
    )
    geometry = {"text+image": causal_geometry([[0]])}
    boxed = flat(abstract_params(block, random_streams(geometry), geometry))
    stacked = {
        path.removeprefix("feed_forward/shared/"): (leaf.value.shape, leaf.names)
        for path, leaf in boxed.items()
        if path.startswith("feed_forward/")
    }
    assert stacked == {
        "router": ((16, 4), ("embed", "expert")),
        "gate": ((4, 16, 24), ("expert", "embed", "mlp")),
        "up": ((4, 16, 24), ("expert", "embed", "mlp")),
        "down": ((4, 24, 16), ("expert", "mlp", "embed")),
    }


def test_the_initial_experts_have_the_variance_of_the_plain_network():
    module = ExpertChoice("swiglu", 64, 128, num_experts=8, output_scale=0.25)
    x, valid = jnp.ones((1, 8, 64)), jnp.ones((1, 8), bool)
    params = nn.unbox(module.init(jax.random.key(0), x, valid))["params"]
    np.testing.assert_allclose(jnp.var(params["up"]), 1 / 64, rtol=0.1)
    np.testing.assert_allclose(jnp.var(params["down"]), 0.25 / 128, rtol=0.1)


def test_a_hybrid_block_has_experts_in_one_tower_only():
    geometry = one_row_geometry()
    streams = random_streams(geometry)
    block = tiny_block(experts=Experts(expert_towers=(TEXT,), num_experts=2))
    params = random_params(block, streams, geometry)
    assert params["feed_forward"][TEXT].keys() == {"router", "gate", "up", "down"}
    assert params["feed_forward"][IMAGE]["gate"]["kernel"].shape == (16, 24)
    delta = delta_of(block, params, streams, geometry)
    # The image stream is that of the same block without experts.
    plain = tiny_block()
    plain_params = random_params(plain, streams, geometry)
    for name, component in params.items():
        for tower in component:
            if (name, tower) != ("feed_forward", TEXT):
                plain_params[name][tower] = component[tower]
    expected = delta_of(plain, plain_params, streams, geometry)
    np.testing.assert_allclose(delta[IMAGE], expected[IMAGE], rtol=1e-5, atol=1e-6)
    assert np.abs(delta[TEXT] - expected[TEXT]).max() > 0.01
