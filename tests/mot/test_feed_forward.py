"""The feed-forward networks' sizes and activations; values are in test_block."""

import jax.numpy as jnp
import numpy as np

from unimod_jax.mot import swiglu_width
from unimod_jax.mot.feed_forward import gelu, swiglu


def test_the_width_follows_llamas_rule():
    assert swiglu_width(4096, multiple_of=256) == 11008
    assert swiglu_width(2048, multiple_of=256) == 5632
    assert swiglu_width(128) == 352


def test_gelu_is_the_tanh_approximation():
    # At 2 the exact GELU is 1.9544997, its tanh approximation 1.9545977.
    np.testing.assert_allclose(gelu(jnp.float32(2.0)), 1.9545977, rtol=2e-7)


def test_the_gate_closes_at_minus_infinity_and_not_the_other_way():
    closed, open_ = jnp.float32(-100.0), jnp.float32(100.0)
    np.testing.assert_allclose(swiglu(closed, open_), 0.0, atol=1e-6)
    np.testing.assert_allclose(swiglu(open_, closed), -10_000.0)
