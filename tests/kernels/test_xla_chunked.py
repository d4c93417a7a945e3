"""The chunked implementation passes the suite in memory linear in T + S."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import AttentionDropout, routed_attention
from pallas_kernels.routed_attention.reference import reference
from pallas_kernels.routed_attention.xla_chunked import (
    KEY_CHUNK,
    QUERY_CHUNK,
    xla_chunked,
)
from tests.kernels.attention_cases import (
    random_case,
    random_visibility,
)
from tests.kernels.dropout_suite import AttentionDropoutSuite


class TestXlaChunked(AttentionDropoutSuite):
    """The suite for `implementation="xla_chunked"`."""

    implementation = "xla_chunked"


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_chunk_edges_agree_with_the_reference(extra):
    num_queries, num_keys = QUERY_CHUNK + extra, 2 * KEY_CHUNK + extra
    case = random_case(0, random_visibility(1, 1, num_queries, num_keys))
    arguments = [jnp.asarray(x) for x in (*case[:3], *case.visibility)]
    actual, wanted = (
        jax.jit(attend, static_argnames="scale")(*arguments, scale=case.scale)
        for attend in (xla_chunked, reference)
    )
    np.testing.assert_allclose(actual, wanted, rtol=0.0, atol=1e-5)


def temporary_bytes(num_tokens, implementation, rate):
    """Compile forward and backward at T = S and return the temporary memory."""
    token = jax.ShapeDtypeStruct((1, num_tokens, 2, 32), jnp.float32)
    integer = jax.ShapeDtypeStruct((1, num_tokens), jnp.int32)

    def loss(q, k, v, window_start, window_end, key_position):
        out = routed_attention(
            q,
            k,
            v,
            window_start,
            window_end,
            key_position,
            scale=1.0,
            dropout=AttentionDropout(jnp.uint32(0), window_start, rate),
            implementation=implementation,
        )
        return jnp.sum(out * out)

    train = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    compiled = train.lower(token, token, token, integer, integer, integer).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_memory_grows_with_tokens_where_the_reference_grows_with_their_square(rate):
    def growth(implementation):
        small, large = (temporary_bytes(n, implementation, rate) for n in (512, 2048))
        return large / small

    assert growth("xla_chunked") < 8.0
    assert growth("reference") > 12.0
