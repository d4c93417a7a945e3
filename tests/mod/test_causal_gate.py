"""The threshold follows the scores, and only where training lets it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unimod_jax.mod import CausalGate
from unimod_jax.mod.causal_gate import STATE, score_quantile

GATE = CausalGate(("text", "image"))
FRESH = {STATE: {"text": jnp.zeros(2), "image": jnp.zeros(2)}}


def follow(variables, score_BT, valid_BT, keep_ratio, stream="text"):
    _, changed = GATE.apply(
        variables,
        stream,
        score_BT,
        valid_BT,
        keep_ratio,
        method="follow",
        mutable=[STATE],
    )
    return changed


def threshold(variables, stream="text"):
    return GATE.apply(variables, stream, method="threshold")


@pytest.mark.parametrize("keep_ratio", [0.2, 0.4, 0.8])
def test_the_kept_share_converges_to_the_keep_ratio(keep_ratio):
    # Scores far from zero, where the threshold starts, and a quarter of them padding.
    rng = np.random.default_rng(0)
    valid_BT = jnp.asarray(rng.uniform(size=(8, 64)) < 0.75)
    variables, shares = FRESH, []
    step = jax.jit(
        lambda variables, score: follow(variables, score, valid_BT, keep_ratio)
    )
    for _ in range(30):
        score_BT = rng.normal(3.0, 2.0, (8, 64)).astype(np.float32)
        kept = (score_BT > float(threshold(variables))) & np.asarray(valid_BT)
        shares.append(kept.sum() / valid_BT.sum())
        variables = step(variables, score_BT)
    assert abs(np.mean(shares[10:]) / keep_ratio - 1) < 0.05
    assert np.std(shares[10:]) < 0.1


def test_the_quantile_is_passed_by_the_keep_ratio_of_valid_scores():
    score_BT = jnp.asarray([[5.0, 1.0, 4.0, 99.0], [2.0, 3.0, 99.0, 99.0]])
    valid_BT = jnp.asarray([[True, True, True, False], [True, True, False, False]])
    quantile = score_quantile(score_BT, valid_BT, 0.4)
    assert quantile == 3.5  # midway between the last skipped and the lowest kept
    assert int(jnp.sum(valid_BT & (score_BT > quantile))) == 2


@pytest.mark.parametrize("keep_ratio", [0.7, 1.0])
@pytest.mark.parametrize("lowest", [0.0, -1e4, 3e-7])
def test_where_no_token_is_skipped_all_pass_and_the_threshold_is_finite(
    keep_ratio, lowest
):
    # Three valid tokens at 0.7 keep ceil(2.1) = 3.
    score_BT = jnp.asarray([[1e6, lowest, lowest + 1.0, 99.0]])
    valid_BT = jnp.asarray([[True, True, True, False]])
    quantile = score_quantile(score_BT, valid_BT, keep_ratio)
    assert np.isfinite(quantile)
    np.testing.assert_array_equal((score_BT > quantile)[0, :3], True)


@pytest.mark.parametrize("keep_ratio", [0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("num_valid", [1, 5, 10, 15, 30])
def test_the_quantile_keeps_as_many_as_top_k_of_one_row_does(keep_ratio, num_valid):
    score_BT = jax.random.normal(jax.random.key(num_valid), (1, 32))
    valid_BT = jnp.arange(32)[None] < num_valid
    quantile = score_quantile(score_BT, valid_BT, keep_ratio)
    expected = math.ceil(round(keep_ratio * num_valid, 6))
    assert int(jnp.sum(valid_BT & (score_BT > quantile))) == expected


def test_a_step_without_valid_tokens_leaves_the_threshold_as_it_is():
    score_BT = jnp.ones((1, 4))
    after = follow(FRESH, score_BT, jnp.ones((1, 4), bool), 0.5)
    before = threshold(after)
    after = follow(after, score_BT, jnp.zeros((1, 4), bool), 0.5)
    np.testing.assert_allclose(threshold(after), before)


def test_the_threshold_starts_where_it_is_told_and_one_step_sets_it():
    assert threshold(FRESH) == 0.0
    assert GATE.apply(FRESH, "text", initial=0.25, method="threshold") == 0.25
    score_BT = jnp.asarray([[7.0, 8.0]])
    after = follow(FRESH, score_BT, jnp.ones((1, 2), bool), 0.5)
    np.testing.assert_allclose(threshold(after), 7.5)
    set_already = GATE.apply(after, "text", initial=0.25, method="threshold")
    np.testing.assert_allclose(set_already, 7.5)
    # Other streams keep theirs.
    assert threshold(after, "image") == 0.0


def test_the_state_changes_only_where_it_is_mutable():
    score_BT, valid_BT = jnp.ones((1, 4)), jnp.ones((1, 4), bool)
    variables = {STATE: {name: jnp.asarray([0.5, 0.25]) for name in ("text", "image")}}

    def use(gate):
        gate.follow("text", score_BT, valid_BT, 0.5)
        return gate.threshold("text")

    assert GATE.apply(variables, method=use) == 2.0
    _, changed = GATE.apply(variables, method=use, mutable=[STATE])
    assert changed[STATE]["text"][1] == 0.625


def test_initialisation_does_not_count_as_a_step():
    score_BT, valid_BT = jnp.ones((1, 4)), jnp.ones((1, 4), bool)
    initial = GATE.init(
        jax.random.key(0), "text", score_BT, valid_BT, 0.5, method="follow"
    )
    np.testing.assert_array_equal(initial[STATE]["text"], 0.0)


def test_no_gradient_flows_through_the_threshold():
    def moved(score_BT):
        after = follow(FRESH, score_BT, jnp.ones((1, 3), bool), 0.5)
        return threshold(after)

    gradient = jax.grad(moved)(jnp.asarray([[1.0, 2.0, 3.0]]))
    np.testing.assert_array_equal(gradient, 0.0)
