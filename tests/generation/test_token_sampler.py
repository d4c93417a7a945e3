"""Which ids may be drawn, and how often, on distributions made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import PATCH_SIZE, SIZES, stack
from tests.task_rows import layouts
from unimod_jax.generation import TokenSampler
from unimod_jax.generation.token_sampler import with_seen
from unimod_jax.layout import IMAGE, TEXT, Document, Stream, lay_out
from unimod_jax.objectives import ImageDiffusion, NextToken

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


PENALISED = TokenSampler(0.0, repetition_penalty=1.2)


@pytest.mark.parametrize(
    ("logits", "seen", "drawn"),
    [
        # 2.4 / 1.2 = 2 and -1 * 1.2 = -1.2: what is a little more is liked better.
        ([2.4, 2.01, 0.0], [1, 0, 0], 1),
        ([2.4, 1.99, 0.0], [1, 0, 0], 0),
        ([-1.0, -1.19, -9.0], [1, 0, 0], 1),
        ([-1.0, -1.21, -9.0], [1, 0, 0], 0),
        ([2.4, 2.01, 0.0], [1, 1, 0], 0),
        ([2.4, 2.01, 0.0], [0, 0, 0], 0),
    ],
)
def test_ids_in_the_row_are_liked_less_whatever_their_sign(logits, seen, drawn):
    logits, seen = jnp.asarray([logits]), jnp.asarray([seen], bool)
    id_B = PENALISED(logits, jnp.ones((1, 3), bool), jax.random.key(0), seen)
    np.testing.assert_array_equal(id_B, [drawn])


def processed(logits, allowed, seen, sampler):
    """Probabilities as Chameleon's four processors leave them, in their order."""
    x = np.where(allowed, logits, -np.inf)
    penalty = sampler.repetition_penalty
    x = np.where(seen, np.where(x < 0, x * penalty, x / penalty), x)
    x = x / sampler.temperature
    share = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    rising = np.argsort(share, kind="stable")
    removed = np.cumsum(share[rising]) <= 1 - sampler.top_p
    removed[-1] = False
    share[rising[removed]] = 0.0
    return share / share.sum()


def test_chameleons_text_is_penalised_then_tempered_then_cut():
    sampler = TokenSampler(0.7, top_p=0.9, repetition_penalty=1.2)
    logits = np.array([3.0, 2.9, 1.5, 1.3, -1.0, 9.0])
    allowed = np.array([1, 1, 1, 1, 1, 0], bool)
    seen = np.array([1, 0, 1, 0, 0, 1], bool)
    expected = processed(logits, allowed, seen, sampler)
    # (2.5, 2.9, 1.25, 1.3, -1) / 0.7 have shares 0.320, 0.567, 0.054, 0.058 and 0.002.
    # Cut first, the third would have stayed; cut before it cools, both.
    np.testing.assert_allclose(expected, [0.339, 0.6, 0, 0.061, 0, 0], atol=5e-4)
    num_draws = 20_000
    every = jnp.asarray(np.tile(logits, (num_draws, 1)), jnp.float32)
    drawn = sampler(every, allowed[None], jax.random.key(0), jnp.asarray(seen)[None])
    found = np.bincount(drawn, minlength=6) / num_draws
    np.testing.assert_allclose(found, expected, atol=0.015)
    assert ((found > 0) == (expected > 0)).all()


def test_what_a_row_has_are_its_ids_and_not_its_empty_slots_or_patches():
    streams = (Stream.of(TEXT), Stream.of(IMAGE))
    given = {"begin": [1], "begin_image": [3], "caption": [12, 14]}
    layout = layouts(NextToken(), SIZES, streams)["image_to_text"]
    rows = [
        lay_out(Document({**given, "image": [16, 17, 17, 19]}), layout),
        lay_out(Document({"caption": [13], "image": [20] * 4}), layout),
    ]
    seen_BV = PENALISED.seen_in(stack(rows), 24)
    assert set(np.flatnonzero(seen_BV[0])) == {1, 3, 12, 14, 16, 17, 19}
    assert set(np.flatnonzero(seen_BV[1])) == {13, 20}
    assert TokenSampler().seen_in(stack(rows), 24) is None
    layout = layouts(ImageDiffusion(), SIZES, streams)["image_to_text"]
    patch_NP = np.ones((SIZES.image_patches, PATCH_SIZE), np.float32)
    row = lay_out(Document(given, patch_NP), layout)
    seen_BV = PENALISED.seen_in(stack([row]), 24)
    assert set(np.flatnonzero(seen_BV[0])) == {1, 3, 12, 14}


def test_what_is_added_is_seen_from_then_on():
    seen_BV = jnp.asarray([[True, False, False], [False, False, False]])
    adds_B = jnp.asarray([True, False])
    seen_BV = with_seen(seen_BV, jnp.asarray([2, 1], jnp.int32), adds_B)
    np.testing.assert_array_equal(seen_BV, [[1, 0, 1], [0, 0, 0]])
    assert with_seen(None, jnp.asarray([2, 1], jnp.int32), adds_B) is None
