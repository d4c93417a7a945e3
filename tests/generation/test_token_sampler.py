"""Which ids may be drawn, and how often, on distributions made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unimod_jax.generation import TokenSampler

SHARES = np.array([0.4, 0.05, 0.3, 0.15, 0.1])
EVERY = np.ones((1, 5), bool)


def shares_drawn(sampler, allowed=EVERY, shares=SHARES, num_draws=4000):
    """How often each id comes."""
    logits = jnp.log(jnp.asarray(np.tile(shares, (num_draws, 1)), jnp.float32))
    drawn = sampler(logits, jnp.asarray(allowed), jax.random.key(0))
    assert drawn.dtype == jnp.int32
    return np.bincount(drawn, minlength=len(shares)) / num_draws


def renormalised(shares, kept):
    """The shares of some ids alone."""
    return np.where(kept, shares, 0.0) / shares[kept].sum()


@pytest.mark.parametrize(
    ("sampler", "kept"),
    [
        (TokenSampler(), [1, 1, 1, 1, 1]),
        (TokenSampler(top_k=2), [1, 0, 1, 0, 0]),
        (TokenSampler(top_k=9), [1, 1, 1, 1, 1]),
        # 0.4 + 0.3 = 0.7 is not yet 0.8; with 0.15 it is passed.
        (TokenSampler(top_p=0.8), [1, 0, 1, 1, 0]),
        (TokenSampler(top_p=0.6), [1, 0, 1, 0, 0]),
        (TokenSampler(top_p=0.01), [1, 0, 0, 0, 0]),
        # Among the two best, renormalised to 0.57 and 0.43, half is reached by one.
        (TokenSampler(top_k=2, top_p=0.5), [1, 0, 0, 0, 0]),
    ],
    ids=str,
)
def test_ids_are_drawn_in_proportion_among_the_likeliest(sampler, kept):
    expected = renormalised(SHARES, np.array(kept, bool))
    drawn = shares_drawn(sampler)
    np.testing.assert_allclose(drawn, expected, atol=0.03)
    assert (drawn[expected == 0] == 0).all()


def test_temperature_sharpens_before_the_nucleus_is_taken():
    squared = SHARES**2 / (SHARES**2).sum()
    drawn = shares_drawn(TokenSampler(temperature=0.5))
    np.testing.assert_allclose(drawn, squared, atol=0.03)
    # Squared shares are 0.55, 0.31, 0.08, ...: two of them reach 0.8.
    drawn = shares_drawn(TokenSampler(temperature=0.5, top_p=0.8))
    expected = renormalised(squared, np.array([1, 0, 1, 0, 0], bool))
    np.testing.assert_allclose(drawn, expected, atol=0.03)


@pytest.mark.parametrize(
    "sampler", [TokenSampler(), TokenSampler(top_k=3), TokenSampler(0.5, top_p=0.95)]
)
def test_what_is_not_allowed_is_never_drawn_and_counts_for_nothing(sampler):
    allowed = np.array([[False, True, False, True, False]])
    drawn = shares_drawn(sampler, allowed)
    assert set(np.flatnonzero(drawn)) == {1, 3}


def test_greedy_takes_the_likeliest_allowed_id_of_each_row():
    logits = jnp.asarray([[3.0, 2.0, 1.0], [-9.0, -8.0, -7.0]])
    allowed = jnp.asarray([[False, True, True], [True, True, False]])
    drawn = TokenSampler(temperature=0.0)(logits, allowed, jax.random.key(0))
    np.testing.assert_array_equal(drawn, [1, 1])
