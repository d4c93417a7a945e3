"""The chunked implementation passes the suite in memory linear in T + S.

It visits only the chunks that meet in some row, with rows and heads on any devices.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import AttentionDropout, routed_attention
from pallas_kernels.device import Device
from pallas_kernels.routed_attention.block_sizes import (
    Blocks,
    BlockSizes,
    block_sizes,
    shape_class,
)
from pallas_kernels.routed_attention.xla_chunked import xla_chunked
from tests.kernels.attention_cases import (
    packed_documents,
    random_case,
    random_visibility,
    run,
    value_and_gradients,
)
from tests.kernels.dropout_suite import AttentionDropoutSuite
from tests.kernels.routed_attention_suite import RoutedAttentionSuite


class TestXlaChunked(RoutedAttentionSuite):
    """The suite in the chunks of the table, two by four at most."""

    implementation = "xla_chunked"


class TestManySmallChunks(AttentionDropoutSuite):
    """The suite, with dropout, in chunks so small that many pairs are hidden."""

    implementation = staticmethod(
        functools.partial(xla_chunked, blocks=Blocks(query=32, key=24))
    )


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_chunk_edges_agree_with_the_reference(extra):
    blocks = Blocks(query=32, key=16)
    num_queries, num_keys = blocks.query + extra, 2 * blocks.key + extra
    case = random_case(0, random_visibility(1, 1, num_queries, num_keys))
    chunked = functools.partial(xla_chunked, blocks=blocks)
    for actual, wanted in zip(run(case, chunked), run(case, "reference"), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=0.0, atol=1e-5)


def poisoned_case():
    """Documents of 32, 32 and 64 tokens; the second one's keys and queries are NaN."""
    case = random_case(2, packed_documents([32, 32, 64], []))
    for array in case[:4]:
        array[:, 32:64] = np.nan
    return case


def test_chunks_that_no_query_sees_are_never_visited():
    # Chunks of 16 tokens: hidden pairs are all that would mix NaN into other documents.
    case = poisoned_case()
    others = np.r_[0:32, 64:128]
    chunked = functools.partial(xla_chunked, blocks=Blocks(query=16, key=16))
    for name, result in zip(("out", "dq", "dk", "dv"), run(case, chunked), strict=True):
        assert np.all(np.isfinite(result[:, others])), name
        assert np.all(np.isnan(result[:, 32:64])), name


def test_one_chunk_for_everything_visits_all_of_it():
    chunked = functools.partial(xla_chunked, blocks=Blocks(query=128, key=128))
    assert np.all(np.isnan(run(poisoned_case(), chunked)[1][:, 32:64]))
    assert np.any(np.isnan(run(poisoned_case(), chunked)[0][:, 64:128]))


def test_one_cut_or_that_of_the_forward_pass_is_the_same_program():
    case = random_case(3, random_visibility(4, 1, 40, 40))

    def program(blocks):
        chunked = functools.partial(xla_chunked, blocks=blocks)
        options = {"scale": case.scale, "implementation": chunked}
        return value_and_gradients.lower(*case[:5], **options).as_text()

    cut, other = Blocks(query=16, key=8), Blocks(query=8, key=8, warps=8)
    assert program(cut) == program(BlockSizes(cut, other, other))
    assert program(cut) == program(cut._replace(warps=8, stages=1))
    assert program(cut) != program(other)


@pytest.mark.parametrize("head_dim", [8, 64, 80, 128, 256])
@pytest.mark.parametrize("num_tokens", [1, 129, 4300])
def test_the_table_cuts_every_class_on_any_chip(num_tokens, head_dim):
    for dtype_bytes in (2, 4):
        shapes = shape_class(num_tokens, num_tokens, head_dim, dtype_bytes)
        for device in (Device("cpu", "cpu"), Device("tpu", "TPU v5 lite")):
            sizes = block_sizes("xla_chunked", device, shapes)
            assert sizes.forward == sizes.query_gradient == sizes.key_gradient


def test_rows_and_heads_on_several_devices_need_no_gather():
    """Rows over 4 and heads over 2 devices: only whether chunks meet is exchanged."""
    rows = [packed_documents(lengths, []) for lengths in ([64], [40, 24], [16] * 4)]
    visibility = type(rows[0])(*map(np.concatenate, zip(*rows, rows[0], strict=True)))
    case = random_case(5, visibility, heads=4, kv_heads=2)
    chunked = functools.partial(xla_chunked, blocks=Blocks(query=16, key=16))

    auto = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(auto, auto))
    heads = jax.NamedSharding(mesh, jax.P("data", None, "tensor"))
    tokens = jax.NamedSharding(mesh, jax.P("data"))
    shardings = (*[heads] * 4, type(visibility)(*[tokens] * 3))
    arguments = jax.device_put(case[:5], shardings)
    options = {"scale": case.scale, "implementation": chunked}
    compiled = value_and_gradients.lower(*arguments, **options).compile()

    exchanged = re.findall(
        r"= (\S+) (all-gather|all-reduce|all-to-all|collective-permute)",
        compiled.as_text(),
    )
    assert {kind for _, kind in exchanged} == {"all-reduce"}, exchanged
    for shape, _ in exchanged:
        assert re.match(r"(pred|u8|s32)\[(1,)?4,4\]", shape), exchanged
    actual = compiled(*arguments)
    for one, other in zip(actual, run(case, "reference"), strict=True):
        assert one.sharding.is_equivalent_to(heads, one.ndim)
        np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-5)


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
