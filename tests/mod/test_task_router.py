"""The router's score, the jitter that breaks its ties, and the weights made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from unimod_jax.mod import SCORE_WEIGHTS, TaskRouter, gentle_weight, jitter

ROUTER = TaskRouter(("text", "image"), 8)


def initial_variables():
    streams = {"text": jnp.ones((1, 2, 8)), "image": jnp.ones((1, 2, 8))}
    return nn.unbox(ROUTER.init(jax.random.key(0), streams))


def test_the_score_is_linear_in_the_normalised_token():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 8))
    weight = rng.normal(size=8)
    params = {
        "text": jnp.asarray(weight, jnp.float32),
        "image": jnp.zeros(8, jnp.float32),
    }
    streams = {"text": jnp.asarray(x, jnp.float32)}
    score = ROUTER.apply({"params": params}, streams)
    normed = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
    assert set(score) == {"text"}
    np.testing.assert_allclose(score["text"], normed @ weight, rtol=1e-4, atol=1e-5)


def test_a_token_scores_the_same_at_any_scale():
    weight = jax.random.normal(jax.random.key(0), (8,))
    variables = {"params": {"text": weight, "image": weight}}
    x = jax.random.normal(jax.random.key(1), (1, 4, 8))
    score = ROUTER.apply(variables, {"text": x})["text"]
    larger = ROUTER.apply(variables, {"text": 100.0 * x})["text"]
    np.testing.assert_allclose(score, larger, rtol=1e-4)


def test_a_fresh_router_scores_zero_and_a_gentle_weight_of_it_is_exactly_one():
    x = jax.random.normal(jax.random.key(1), (4, 16, 8))
    score = ROUTER.apply(initial_variables(), {"image": x})["image"]
    np.testing.assert_array_equal(score, 0.0)
    np.testing.assert_array_equal(gentle_weight(score), 1.0)


def test_a_fresh_router_learns_from_its_weights_gradient():
    x = jax.random.normal(jax.random.key(1), (4, 16, 8))
    variables = initial_variables()

    def total(params):
        return jnp.sum(
            gentle_weight(ROUTER.apply({"params": params}, {"text": x})["text"])
        )

    gradient = jax.grad(total)(variables["params"])["text"]
    assert float(jnp.abs(gradient).max()) > 0.1


def test_the_jitter_is_the_fraction_of_the_position_times_the_golden_ratio():
    position = np.arange(2000)
    expected = 1e-3 * np.mod(position * (np.sqrt(5.0) - 1.0) / 2.0, 1.0)
    found = jitter(jnp.asarray(position[None]))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[0], expected, atol=1e-9)


@pytest.mark.parametrize("start", [0, 7, 100_000, 10_000_000])
def test_the_jitter_spreads_any_stretch_of_positions_evenly(start):
    position = jnp.arange(start, start + 40)[None]
    above = np.flatnonzero(jitter(position)[0] > 0.75e-3)
    assert abs(len(above) - 10) <= 1
    # Weyl's gaps: never a long stretch without a token, nor two in a row.
    gaps = np.diff(np.concatenate([[-1], above, [40]]))
    assert gaps.max() <= 6
    assert np.diff(above).min() >= 2


def test_scores_are_float32_whatever_the_tokens_are():
    x = jnp.ones((1, 2, 8), jnp.bfloat16)
    assert ROUTER.apply(initial_variables(), {"text": x})["text"].dtype == jnp.float32


def test_the_weight_starts_at_one_and_stays_within_a_fifth_of_it():
    np.testing.assert_array_equal(gentle_weight(jnp.zeros(3)), 1.0)
    np.testing.assert_allclose(
        gentle_weight(jnp.asarray([-1e9, 1e9])), [0.8, 1.2], rtol=1e-6
    )
    slope = jax.grad(lambda score: gentle_weight(score))(jnp.zeros(()))
    np.testing.assert_allclose(slope, 0.2, rtol=1e-6)


def test_each_weight_is_the_function_its_name_says():
    score = jnp.asarray([[-2.0, 0.0, 0.5]])
    expected = {
        "gentle": 1.0 + 0.2 * np.tanh(score),
        "sigmoid": 1.0 / (1.0 + np.exp(-np.asarray(score))),
        "raw": np.asarray(score),
        "one": np.ones((1, 3)),
    }
    assert set(SCORE_WEIGHTS) == set(expected)
    for name, values in expected.items():
        weight = SCORE_WEIGHTS[name](score)
        assert weight.dtype == jnp.float32
        np.testing.assert_allclose(weight, values, rtol=1e-6)
