"""The rules for causal streams: what decides over a token, and what trains the rule."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.mod.choosing import (
    ROWS,
    TOKENS,
    WITHOUT_LOOKING_AHEAD,
    calibrated,
    fresh,
    full_rows,
    inference,
    make_choice,
    preferring,
    random_route,
    tokens,
    training,
)
from unimod_jax.mod import (
    Route,
    TaskRouter,
    disagreement,
    jitter,
    membership_loss,
    select_top_k,
)
from unimod_jax.mod.causal_gate import STATE

CAUSAL_CHOICES = [
    *(make_choice(Route("task", 0.5, causal_rule=r)) for r in WITHOUT_LOOKING_AHEAD),
    make_choice(random_route()),
]
CHOICE_NAMES = [*WITHOUT_LOOKING_AHEAD, "random"]
LEARNED = [make_choice(Route("task", 0.5, causal_rule=r)) for r in CHOICE_NAMES[1:3]]
TOP_K = make_choice(Route("task", 0.5, causal_rule="top_k"))
over_causal_rules = pytest.mark.parametrize("choice", CAUSAL_CHOICES, ids=CHOICE_NAMES)
over_learned_rules = pytest.mark.parametrize("choice", LEARNED, ids=CHOICE_NAMES[1:3])


def looks_ahead(choice):
    """Whether replacing all tokens after some position changes what is kept before."""
    variables = calibrated(choice)
    x_BTD, other_BTD = tokens(20), tokens(21)
    kept_BT = inference(choice)(variables, x_BTD, full_rows()).kept_BT
    found = False
    for last in range(TOKENS - 1):
        later_T = jnp.arange(TOKENS) > last
        mixed_BTD = jnp.where(later_T[None, :, None], other_BTD, x_BTD)
        mixed_BT = inference(choice)(variables, mixed_BTD, full_rows()).kept_BT
        found |= bool((mixed_BT != kept_BT)[:, : last + 1].any())
    assert 0.2 < kept_BT.mean() < 0.8
    return found


@over_causal_rules
def test_later_tokens_do_not_decide_over_earlier_ones(choice):
    assert not looks_ahead(choice)


def test_top_k_does_look_ahead():
    assert looks_ahead(TOP_K)


@over_causal_rules
def test_a_token_decoded_alone_is_chosen_as_in_the_full_row(choice):
    num_rows = 16
    variables, x_BTD = calibrated(choice), tokens(20, num_rows)
    whole = inference(choice)(variables, x_BTD, full_rows(num_rows))
    places = whole.selection.index_BC.shape[1]
    assert places == TOKENS // 2
    num_kept_B = np.zeros(num_rows, np.int32)
    for t in range(TOKENS):
        one = inference(choice)(
            variables,
            x_BTD[:, t : t + 1],
            np.full((num_rows, 1), t),
            places - num_kept_B,
        )
        np.testing.assert_array_equal(one.kept_BT[:, 0], whole.kept_BT[:, t])
        np.testing.assert_allclose(
            one.weight_BT[:, 0], whole.weight_BT[:, t], rtol=1e-5
        )
        assert one.selection.index_BC.shape == (num_rows, 1)
        num_kept_B += np.asarray(one.kept_BT[:, 0], np.int32)
    # Some row ran out of room: with more places it keeps more.
    roomy = inference(choice, 2 * TOKENS)(variables, x_BTD, full_rows(num_rows))
    assert int(roomy.kept_BT.sum()) > num_kept_B.sum()


@over_causal_rules
def test_empty_slots_are_never_chosen_and_nothing_depends_on_them(choice):
    position_BT = full_rows()
    position_BT[:, :4] = -1
    position_BT[0] = -1
    variables, x_BTD = calibrated(choice), tokens(20)
    loud_BTD = jnp.where((position_BT < 0)[..., None], 1e3, x_BTD)
    quiet = training(choice)(variables, x_BTD, position_BT)
    loud = training(choice)(variables, loud_BTD, position_BT)
    for step in (inference(choice)(variables, loud_BTD, position_BT), loud[0]):
        kept_BT = np.asarray(step.kept_BT)
        assert kept_BT.any()
        assert not kept_BT[position_BT < 0].any()
    np.testing.assert_array_equal(quiet[0].kept_BT, loud[0].kept_BT)
    np.testing.assert_array_equal(quiet[0].auxiliary_loss, loud[0].auxiliary_loss)
    np.testing.assert_array_equal(quiet[0].disagreement, loud[0].disagreement)
    for before, after in zip(
        jax.tree.leaves(quiet[1]), jax.tree.leaves(loud[1]), strict=True
    ):
        np.testing.assert_array_equal(before, after)


@over_learned_rules
def test_training_keeps_the_best_scores_and_decoding_those_above_a_threshold(choice):
    variables, x_BTD = calibrated(choice), tokens(20)
    step, _ = training(choice)(variables, x_BTD, full_rows())
    weights = {"params": variables["params"]["router"]}
    router = TaskRouter(("text",), x_BTD.shape[-1])
    score_BT = router.apply(weights, {"text": x_BTD})["text"]
    score_BT += jitter(jnp.asarray(full_rows()))
    valid_BT = jnp.ones((ROWS, TOKENS), bool)
    best = select_top_k(score_BT, valid_BT, 0.5, TOKENS // 2)
    np.testing.assert_array_equal(step.kept_BT, best.kept_BT)
    decoded = inference(choice)(variables, x_BTD, full_rows())
    differ = np.mean(decoded.kept_BT != best.kept_BT)
    assert differ > 0
    np.testing.assert_allclose(step.disagreement, differ, rtol=1e-6)
    assert step.auxiliary_loss > 0
    assert decoded.auxiliary_loss == decoded.disagreement == 0


@over_causal_rules
def test_one_batch_calibrates_an_empty_gate_to_the_exact_keep_ratio(choice):
    # One row of forty, so that the row's share is the batch's.
    x_BTD, position_BT = 3.0 * tokens(5, 1, 40), full_rows(1, 40)
    variables = preferring(fresh(choice))
    _, after = training(choice, 40)(variables, x_BTD, position_BT)
    kept_BT = inference(choice, 40)(after, x_BTD, position_BT).kept_BT
    assert int(kept_BT.sum()) == 20


def test_a_threshold_that_fits_the_row_disagrees_with_top_k_nowhere():
    choice = LEARNED[0]
    x_BTD, position_BT = tokens(5, 1, 40), full_rows(1, 40)
    variables = preferring(fresh(choice))
    first, variables = training(choice, 40)(variables, x_BTD, position_BT)
    second, _ = training(choice, 40)(variables, x_BTD, position_BT)
    assert first.disagreement > 0
    assert second.disagreement == 0


def test_disagreement_is_a_share_of_the_valid_tokens():
    one = jnp.asarray([[1, 1, 0, 0, 1]], bool)
    other = jnp.asarray([[1, 0, 0, 1, 0]], bool)
    valid = jnp.asarray([[1, 1, 1, 1, 0]], bool)
    assert disagreement(one, other, valid) == 0.5
    assert disagreement(one, one, valid) == 0.0
    assert disagreement(one, other, jnp.zeros_like(valid)) == 0.0


def test_the_membership_loss_is_cross_entropy_over_valid_tokens():
    logit = jnp.asarray([[2.0, -1.0, 0.5, 9.0]])
    member = jnp.asarray([[True, False, False, False]])
    valid = jnp.asarray([[True, True, True, False]])
    chance = 1.0 / (1.0 + np.exp(-np.asarray(logit, np.float64)))
    loss = -np.log(np.where(member, chance, 1.0 - chance))[:, :3].mean()
    found = membership_loss(logit, member, valid)
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    assert membership_loss(logit, member, jnp.zeros_like(valid)) == 0.0


@over_learned_rules
def test_the_auxiliary_loss_trains_its_map_and_does_not_reach_the_tokens(choice):
    variables = calibrated(choice)

    def loss(params, x_BTD):
        step, _ = training(choice)(variables | {"params": params}, x_BTD, full_rows())
        return step.auxiliary_loss

    by_params, by_token = jax.grad(loss, argnums=(0, 1))(
        variables["params"], tokens(20)
    )
    np.testing.assert_array_equal(by_token, 0.0)
    learns = "predictor" if choice.route.causal_rule == "predictor" else "router"
    for name, gradients in by_params.items():
        size = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients))
        assert (size > 1e-3) == (name == learns)


@over_learned_rules
def test_the_weight_still_brings_the_tasks_gradient_to_the_router(choice):
    variables = calibrated(choice)

    def total(params):
        step, _ = training(choice)(
            variables | {"params": params}, tokens(20), full_rows()
        )
        return jnp.sum(step.weight_BT)

    gradient = jax.grad(total)(variables["params"])["router"]["text"]
    assert float(jnp.abs(gradient).max()) > 1e-3


def test_the_predictor_learns_what_top_k_keeps():
    choice = LEARNED[1]
    start = preferring(fresh(choice))
    x_BTD = tokens(20)

    @jax.jit
    def descend(variables, _):
        def loss(params):
            step, after = training(choice)(
                variables | {"params": params}, x_BTD, full_rows()
            )
            return step.auxiliary_loss, (step.disagreement, after[STATE])

        grad = jax.grad(loss, has_aux=True)
        gradient, (gap, state) = grad(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.3 * g, variables["params"], gradient)
        return {"params": params, STATE: state}, gap

    _, gaps = jax.lax.scan(descend, start, length=300)
    assert gaps[0] > 0.25
    assert gaps[-1] < 0.1


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize("rule", [*WITHOUT_LOOKING_AHEAD, "top_k"])
def test_a_fresh_router_keeps_an_even_spread_and_not_the_head_of_the_row(rule, mode):
    choice = make_choice(Route("task", 0.25, causal_rule=rule))
    x_BTD, position_BT = tokens(5, 2, 40), full_rows(2, 40)
    if mode == "training":
        chosen, _ = training(choice, 40)(fresh(choice), x_BTD, position_BT)
    else:
        chosen = inference(choice, 40)(fresh(choice), x_BTD, position_BT)
    for row in np.asarray(chosen.kept_BT):
        per_quarter = row.reshape(4, 10).sum(axis=1)
        assert row.sum() in (9, 10)
        assert per_quarter.min() >= 2
        assert per_quarter.max() <= 3
    np.testing.assert_array_equal(chosen.weight_BT, 1.0)
    assert chosen.disagreement < 0.05


def test_the_following_threshold_is_one_rule_in_training_and_elsewhere():
    choice = CAUSAL_CHOICES[0]
    variables, x_BTD = calibrated(choice), tokens(20)
    step, after = training(choice)(variables, x_BTD, full_rows())
    decoded = inference(choice)(variables, x_BTD, full_rows())
    np.testing.assert_array_equal(step.kept_BT, decoded.kept_BT)
    assert step.auxiliary_loss == step.disagreement == 0
    # The threshold has moved on for the next step.
    before, moved = (v[STATE]["gate"]["text"] for v in (variables, after))
    assert not np.array_equal(before, moved)


@over_causal_rules
def test_more_room_than_places_changes_nothing(choice):
    variables, x_BTD = calibrated(choice), tokens(20)
    whole = inference(choice)(variables, x_BTD, full_rows())
    roomy = inference(choice)(variables, x_BTD, full_rows(), jnp.full(ROWS, 99))
    np.testing.assert_array_equal(whole.kept_BT, roomy.kept_BT)
    none = inference(choice)(variables, x_BTD, full_rows(), jnp.zeros(ROWS, jnp.int32))
    assert not none.kept_BT.any()


def test_a_keep_ratio_of_its_own_calibrates_each_stream_by_itself():
    route = dataclasses.replace(
        Route("task", 0.5), stream_keep_ratios=(("text", 0.75),)
    )
    choice = make_choice(route)
    x_BTD, position_BT = tokens(5, 1, 40), full_rows(1, 40)
    _, after = training(choice, 40)(preferring(fresh(choice)), x_BTD, position_BT)
    chosen = inference(choice, 40)(after, x_BTD, position_BT)
    assert int(chosen.kept_BT.sum()) == chosen.selection.index_BC.shape[1] == 30
