"""The Hopper kernels pass the suite in JAX's interpreter and lower for the chip.

The interpreter runs every warpgroup as a thread and knows barriers and asynchronous
copies; with `detect_races` it refuses an access that no barrier orders. It multiplies
shared memory only, so the left operand of three products passes through it here and
through registers on the chip.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import AbstractDevice, AbstractMesh

from pallas_kernels import AttentionDropout
from pallas_kernels.routed_attention.block_bounds import block_map
from pallas_kernels.routed_attention.block_sizes import Blocks, BlockSizes
from pallas_kernels.routed_attention.mosaic_gpu import mosaic_gpu
from tests.kernels.attention_cases import (
    packed_documents,
    random_case,
    random_visibility,
    run,
)
from tests.kernels.routed_attention_suite import RoutedAttentionSuite

# One warpgroup that owns 128 tokens: interpreting costs by the program and the visit.
FEW_PROGRAMS = BlockSizes(*(Blocks(query=128, key=128, warps=4),) * 3)
# Two warpgroups of 64 tokens, as the table has them, and more visits than buffers.
TWO_WARPGROUPS = BlockSizes(
    forward=Blocks(query=128, key=64, warps=8),
    query_gradient=Blocks(query=128, key=64, warps=8),
    key_gradient=Blocks(query=64, key=128, warps=8),
)


def interpreted(blocks, interpret=True):
    """Return the kernels of some blocks, to run anywhere."""
    return functools.partial(mosaic_gpu, blocks=blocks, interpret=interpret)


def described(kind, platform="cuda"):
    """Pretend to trace for a chip."""
    chip = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    return jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=chip))


def arguments(num_queries, num_keys, heads=1, kv_heads=1, head_dim=64):
    """Describe the arrays of an attention, without numbers."""

    def array(*shape, dtype):
        return jax.ShapeDtypeStruct((1, *shape), dtype)

    return (
        array(num_queries, heads, head_dim, dtype=jnp.bfloat16),
        *(array(num_keys, kv_heads, head_dim, dtype=jnp.bfloat16),) * 2,
        *(array(num_queries, dtype=jnp.int32),) * 2,
        array(num_keys, dtype=jnp.int32),
    )


def lowered_kernels(wrap, *shape):
    """Lower a gradient for the H200 and return how many kernels it launches."""

    def loss(q, k, v, *visibility):
        def attend(q, k, v):
            return mosaic_gpu(q, k, v, *visibility, scale=0.125)

        return jnp.sum(jnp.square(wrap(attend)(q, k, v)))

    with described("NVIDIA H200"):
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        traced = gradients.trace(*arguments(*shape))
        return traced.lower(lowering_platforms=("cuda",)).as_text().count("@mosaic_gpu")


class TestMosaicGpu(RoutedAttentionSuite):
    """The suite for the interpreted kernels."""

    implementation = staticmethod(interpreted(FEW_PROGRAMS))
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16",)
    head_dim: ClassVar[int] = 64

    def test_checkpoint_leaves_values_and_gradients_unchanged(self):
        # The interpreter's callbacks are effects, which jax.checkpoint refuses. The
        # kernels have none: it launches the forward one again, and nothing else.
        def count(wrap):
            return lowered_kernels(wrap, 40, 50)

        assert count(jax.checkpoint) == count(lambda attend: attend) + 1


@pytest.mark.parametrize("head_dim", [80, 96, 128])
def test_two_warpgroups_serve_every_head_dimension_without_races(head_dim):
    visibility = packed_documents([150, 55], [(20, 120)])
    case = random_case(
        0, visibility, heads=2, kv_heads=1, head_dim=head_dim, dtype="bfloat16"
    )
    suite = TestMosaicGpu()
    races = plgpu.InterpretGPUParams(detect_races=True)
    suite.implementation = interpreted(TWO_WARPGROUPS, races)
    suite.check(case)


def test_float16_and_a_negative_scale_match_the_definition():
    visibility = random_visibility(1, 1, 40, 50)
    case = random_case(2, visibility, heads=1, kv_heads=1, head_dim=64, dtype="float16")
    TestMosaicGpu().check(case._replace(scale=-case.scale), tolerance=2e-3)


def test_blocks_that_no_query_sees_are_never_read():
    # Documents of 128, 128 and 64 tokens in blocks of 128 and 64; the image makes whole
    # blocks of its document's first half, causal text makes partial ones.
    visibility = packed_documents([128, 128, 64], [(0, 128)])
    sizes = {"query_block": 128, "key_block": 64}
    visible, whole = block_map(*(jnp.asarray(x) for x in visibility), **sizes)
    np.testing.assert_array_equal(
        visible[0], [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(
        whole[0], [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    )
    case = random_case(3, visibility, heads=1, kv_heads=1, head_dim=64)
    case = case._replace(
        **{f: getattr(case, f).astype(jnp.bfloat16) for f in case._fields[:4]}
    )
    attend = interpreted(TWO_WARPGROUPS)
    before = run(case, attend)
    # The last document sees only itself, so that its poison must stay with it.
    for poisoned in case[:4]:
        poisoned[:, 256:] = np.nan
    after = run(case, attend)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[:, :256], other[:, :256])
        assert np.isnan(np.asarray(other[:, 256:], np.float32)).any()


@pytest.mark.parametrize(
    "shape",
    [
        (1127, 1127, 32, 32, 64),
        (860, 860, 32, 8, 128),
        (300, 280, 4, 2, 80),
        (1, 4096, 32, 8, 128),
    ],
)
def test_the_table_serves_real_shapes_with_three_kernels(shape):
    assert lowered_kernels(lambda attend: attend, *shape) == 3


def call(*, kind="NVIDIA H200", dtype=jnp.bfloat16, head_dim=64, **options):
    """Trace a call for a chip that is not there."""
    arrays = [
        x.update(dtype=dtype) if x.ndim == 4 else x
        for x in arguments(8, 8, head_dim=head_dim)
    ]
    with described(kind):
        attend = functools.partial(mosaic_gpu, scale=1.0, **options)
        return jax.eval_shape(attend, *arrays)


DROPOUT = AttentionDropout(jnp.uint32(0), jnp.zeros((1, 8), jnp.int32), 0.1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "NVIDIA A100-SXM4-80GB"}, r"A100.*needs the wgmma.*use another"),
        ({"kind": "NVIDIA B200"}, r"B200.*needs the wgmma.*use another"),
        ({"dtype": jnp.float32}, r"float32.*tf32; cast to one of bfloat16, float16"),
        ({"head_dim": 72}, r"is 72.*multiples of 16 up to 128; pad E or use"),
        ({"head_dim": 256}, r"is 256.*multiples of 16 up to 128; pad E or use"),
        ({"dropout": DROPOUT}, r"rate 0.1.*drops nothing; use implementation"),
    ],
)
def test_what_it_cannot_serve_is_refused_in_one_sentence(changes, sentence):
    with pytest.raises(NotImplementedError, match=sentence):
        call(**changes)


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        (Blocks(192, 192, warps=12), r"12 warps.*make warps 4 or 8"),
        (Blocks(192, 192, warps=8), r"192 tokens to 2 warpgroups.*multiple of 64"),
    ],
)
def test_blocks_that_no_warpgroup_can_own_are_refused(blocks, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(blocks=BlockSizes(blocks, blocks, blocks))


def test_every_hopper_chip_is_served():
    for kind in ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA GH200 480GB"):
        assert call(kind=kind).shape == (1, 8, 1, 64)
