"""Logits on demand: of some ids, in float32, with a bias or without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unimod_jax.models import VocabularyMap
from unimod_jax.models.vocabulary_head import VocabularyHead

WIDTH, VOCABULARY_SIZE = 4, 9
HIDDEN = jax.random.normal(jax.random.key(0), (2, 3, WIDTH))
TABLE = jax.random.normal(jax.random.key(1), (VOCABULARY_SIZE, WIDTH))
BIAS = jnp.linspace(-1.0, 1.0, VOCABULARY_SIZE)


@pytest.mark.parametrize("bias", [None, BIAS], ids=["no bias", "bias"])
def test_logits_are_the_product_and_the_bias(bias):
    head = VocabularyMap(TABLE.T, bias)
    expected = np.asarray(HIDDEN) @ np.asarray(TABLE).T
    expected += 0 if bias is None else np.asarray(BIAS)
    np.testing.assert_allclose(head.logits(HIDDEN), expected, rtol=1e-5, atol=1e-6)
    some = head.logits(HIDDEN[:, 1:], slice(2, 6))
    np.testing.assert_allclose(some, expected[:, 1:, 2:6], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_has_no_kernel_of_its_own(tied, bias):
    module = VocabularyHead(WIDTH, VOCABULARY_SIZE, tied, bias)
    table = TABLE if tied else None
    head, variables = module.init_with_output(jax.random.key(0), table)
    assert head.kernel_DV.shape == (WIDTH, VOCABULARY_SIZE)
    assert (head.bias_V is not None) == bias
    names = set() if tied else {"kernel"}
    names |= {"bias"} if bias else set()
    assert set(variables.get("params", {})) == names
    if tied:
        np.testing.assert_array_equal(head.kernel_DV, TABLE.T)


def test_bfloat16_logits_are_summed_in_float32_and_so_are_their_gradients():
    rounded = HIDDEN.astype(jnp.bfloat16)
    kernel = TABLE.T.astype(jnp.bfloat16).astype(jnp.float32)
    logits = VocabularyMap(kernel).logits(rounded)
    exact = np.asarray(rounded, np.float32) @ np.asarray(kernel)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-6)
    by_logits = jnp.ones_like(logits)

    def weighed(hidden, kernel):
        return jnp.sum(by_logits * VocabularyMap(kernel).logits(hidden))

    by_hidden, by_kernel = jax.grad(weighed, argnums=(0, 1))(rounded, kernel)
    assert (by_hidden.dtype, by_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    expected = np.asarray(rounded, np.float32).sum(axis=(0, 1))
    for column in np.asarray(by_kernel).T:
        np.testing.assert_allclose(column, expected, rtol=1e-5)
    np.testing.assert_allclose(
        by_hidden[0, 0].astype(jnp.float32), kernel.sum(axis=1), rtol=1e-2
    )
