"""The router's score and the bounded weight made from it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from unimod_jax.mod import TaskRouter, gentle_weight

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
    variables = initial_variables()
    x = jax.random.normal(jax.random.key(1), (1, 4, 8))
    score = ROUTER.apply(variables, {"text": x})["text"]
    larger = ROUTER.apply(variables, {"text": 100.0 * x})["text"]
    np.testing.assert_allclose(score, larger, rtol=1e-4)


def test_initial_scores_are_small_and_not_tied():
    # Zero weights would tie all scores, and ties drop the tail of every row.
    x = jax.random.normal(jax.random.key(1), (4, 16, 8))
    score = np.asarray(ROUTER.apply(initial_variables(), {"image": x})["image"])
    assert np.abs(score).max() < 0.05
    assert len(np.unique(score)) == score.size


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
