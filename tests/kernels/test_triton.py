"""The Triton kernels, interpreted, pass the suite and leave hidden blocks alone.

Only their arithmetic and their visits are tested here; that they compile for a chip,
and how fast they are, needs a compiler for it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from pallas_kernels import AttentionDropout
from pallas_kernels.routed_attention.block_bounds import block_map
from pallas_kernels.routed_attention.block_sizes import Blocks, BlockSizes
from pallas_kernels.routed_attention.triton import triton
from tests.kernels.attention_cases import (
    Visibility,
    packed_documents,
    random_case,
    random_visibility,
    run,
)
from tests.kernels.routed_attention_suite import RoutedAttentionSuite

# Each pass is cut its own way, so that none can use another's schedule unnoticed.
SMALL_BLOCKS = BlockSizes(
    forward=Blocks(query=32, key=16),
    query_gradient=Blocks(query=16, key=32),
    key_gradient=Blocks(query=32, key=32),
)
interpreted = functools.partial(triton, interpret=True, blocks=SMALL_BLOCKS)


class TestTriton(RoutedAttentionSuite):
    """The suite for the interpreted kernels, and what only blocks can get wrong."""

    implementation = staticmethod(interpreted)
    dtypes = ("float32", "bfloat16", "float16")
    head_dim = 64
    tolerance = RoutedAttentionSuite.tolerance | {"float16": 4e-3}

    @pytest.mark.parametrize("head_dim", [8, 80, 96, 128])
    def test_lanes_beyond_the_head_are_zeros(self, head_dim):
        visibility = random_visibility(1, 1, 40, 50)
        self.check(random_case(0, visibility, heads=4, kv_heads=2, head_dim=head_dim))

    def test_whole_partial_and_hidden_blocks_occur_and_match_the_definition(self):
        visibility = packed_documents([100, 45], [(64, 100)])
        for blocks in SMALL_BLOCKS:
            pairs = block_map(
                *(jnp.asarray(x) for x in visibility),
                query_block=blocks.query,
                key_block=blocks.key,
            )
            assert np.any(pairs.whole_BNM)
            assert np.any(pairs.visible_BNM & ~pairs.whole_BNM)
            assert not np.all(pairs.visible_BNM)
        self.check(self.case(2, visibility))

    @pytest.mark.parametrize("scale", [-0.3, 0.0, 3.0])
    def test_scores_may_be_reversed_ignored_or_sharpened(self, scale):
        case = random_case(3, random_visibility(4, 1, 20, 30), head_dim=16)
        self.check(case._replace(scale=scale), tolerance=1e-4)


def hidden_halves() -> Visibility:
    """Queries 64 on see nothing, and nobody sees keys 64 on: whole blocks of each."""
    position = np.arange(128)
    end = np.where(position < 64, position + 1, 0)
    return Visibility(
        *(np.asarray(x[None], np.int32) for x in (np.zeros(128), end, position))
    )


def test_hidden_blocks_are_never_read():
    case = random_case(5, hidden_halves(), heads=4, kv_heads=2, head_dim=16)
    clean = run(case, interpreted)
    for array in case[:4]:
        array[:, 64:] = np.nan
    poisoned = run(case, interpreted)
    for name, before, after in zip(
        ("out", "dq", "dk", "dv"), clean, poisoned, strict=True
    ):
        np.testing.assert_array_equal(before, after, err_msg=name)
        assert not np.any(after[:, 64:]), name


def arguments(
    num_tokens: int, head_dim: int, dtype: str
) -> tuple[jax.ShapeDtypeStruct, ...]:
    head = jax.ShapeDtypeStruct((1, num_tokens, 2, head_dim), dtype)
    integer = jax.ShapeDtypeStruct((1, num_tokens), "int32")
    return (head, head, head, integer, integer, integer)


def trace_for(kind: str, num_tokens: int, head_dim: int, dtype: str) -> tuple:
    """Shapes of the output and gradients where only a description of a chip exists."""
    device = AbstractDevice(device_kind=kind, num_cores=None, platform="cuda")
    mesh = AbstractMesh((), (), abstract_device=device)

    def attend(q, k, v, *visibility):
        out, pull_back = jax.vjp(
            lambda *qkv: triton(*qkv, *visibility, scale=1.0), q, k, v
        )
        return out, *pull_back(out)

    with jax.sharding.use_abstract_mesh(mesh):
        return jax.eval_shape(attend, *arguments(num_tokens, head_dim, dtype))


@pytest.mark.parametrize(
    "kind",
    ["NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA L40S"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_chip_has_block_sizes_for_every_shape(kind, dtype):
    for num_tokens in (1, 282, 4300):
        for head_dim in (64, 80, 128):
            for x in trace_for(kind, num_tokens, head_dim, dtype):
                assert x.shape == (1, num_tokens, 2, head_dim)
                assert x.dtype == dtype


def test_other_platforms_are_refused():
    with pytest.raises(NotImplementedError, match=r"cpu.* is no NVIDIA GPU"):
        jax.eval_shape(
            functools.partial(triton, scale=1.0), *arguments(16, 64, "float32")
        )
    with pytest.raises(NotImplementedError, match=r"MI300X.* is no NVIDIA GPU"):
        trace_for("AMD Instinct MI300X", 16, 64, "float32")


def test_wide_heads_are_refused():
    with pytest.raises(NotImplementedError, match="Head dimension 144 is above 128"):
        jax.eval_shape(
            functools.partial(interpreted, scale=1.0), *arguments(16, 144, "float32")
        )


def test_dropout_is_refused():
    def attend(*arrays):
        dropout = AttentionDropout(jnp.uint32(0), arrays[3], 0.1)
        return interpreted(*arrays, scale=1.0, dropout=dropout)

    with pytest.raises(NotImplementedError, match=r"Dropout of rate 0\.1"):
        jax.eval_shape(attend, *arguments(16, 64, "float32"))
