"""Routed attention for NVIDIA GPUs from the A100 on, in Pallas' Triton lowering.

A program owns one block of queries (output, gradient of q) or of keys (gradients of k
and v) and walks the list of blocks that `block_bounds.py` wrote for it: first those
that need no mask, then those that do. Hidden blocks are never read. Scores live in
registers only; the backward pass makes them again from the saved log-sum-exp
(FlashAttention-2, arXiv 2307.08691). Each gradient has one owner, so nothing is added
atomically and results do not vary from run to run.

JAX deprecates this lowering since 0.11 in favour of Mosaic GPU, which does not compile
for an A100. It is kept to this file and its `triton_kernels.py`, which leave with it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pallas_triton

from pallas_kernels.device import current_device
from pallas_kernels.routed_attention.block_bounds import (
    BlockMap,
    BlockSchedule,
    block_map,
    block_schedule,
)
from pallas_kernels.routed_attention.block_sizes import (
    Blocks,
    BlockSizes,
    block_sizes,
    shape_class,
)
from pallas_kernels.routed_attention.dropout import AttentionDropout
from pallas_kernels.routed_attention.saved_results import saved_results
from pallas_kernels.routed_attention.triton_kernels import (
    SMALLEST_BLOCK,
    Cut,
    fast_power,
    forward_kernel,
    key_gradient_kernel,
    plain_power,
    query_gradient_kernel,
)

# The wider a head, the more registers its accumulators take; the table ends here.
LARGEST_HEAD_DIM = 128


class _Constants(NamedTuple):
    """What the program is compiled for."""

    scale: float
    sizes: BlockSizes
    interpret: bool


def triton(
    q_BTHE: jax.Array,
    k_BSGE: jax.Array,
    v_BSGE: jax.Array,
    window_start_BT: jax.Array,
    window_end_BT: jax.Array,
    key_position_BS: jax.Array,
    *,
    scale: float,
    dropout: AttentionDropout | None = None,
    blocks: BlockSizes | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Attend on tensor cores; arguments and result as `routed_attention`.

    Any T and S: arrays are read where they lie, neither transposed nor padded. float32
    is multiplied as float32, without tensor cores. Supports reverse mode only
    (`jax.custom_vjp`).

    Args:
      q_BTHE: E up to 128, fastest if a multiple of 16.
      k_BSGE: as `routed_attention`.
      v_BSGE: as `routed_attention`.
      window_start_BT: as `routed_attention`.
      window_end_BT: as `routed_attention`.
      key_position_BS: as `routed_attention`.
      scale: multiplies the scores.
      dropout: must be None.
      blocks: how each pass is cut, into powers of 2 from 16; blocks longer than T or S
        are cut down. None looks the sizes up for the chip.
      interpret: run the kernels as plain JAX, on any platform.

    Returns:
      `[B, T, H, E]` in the dtype of `q_BTHE`.

    Raises:
      NotImplementedError: dropout, E above 128, or a chip that is not NVIDIA's.
    """
    head_dim = q_BTHE.shape[3]
    _check_served(head_dim, dropout, interpret)
    if blocks is None:
        lengths = (q_BTHE.shape[1], k_BSGE.shape[1])
        shapes = shape_class(*lengths, head_dim, q_BTHE.dtype.itemsize)
        blocks = block_sizes("triton", current_device(), shapes)
    if scale <= 0:
        # The kernels take the largest product of q and k for the largest score.
        q_BTHE, scale = q_BTHE * (-1.0 if scale else 0.0), -scale or 1.0
    arrays = (q_BTHE, k_BSGE, v_BSGE, window_start_BT, window_end_BT, key_position_BS)
    return _attention(_Constants(scale, blocks, interpret), *arrays)


def _check_served(
    head_dim: int, dropout: AttentionDropout | None, interpret: bool
) -> None:
    device = current_device()
    is_nvidia = device.platform == "gpu" and device.kind.startswith("NVIDIA")
    if not is_nvidia and not interpret:
        raise NotImplementedError(
            f"{device} is no NVIDIA GPU, for which this Triton kernel is written; pass "
            'implementation="xla_chunked".'
        )
    if head_dim > LARGEST_HEAD_DIM:
        raise NotImplementedError(
            f"Head dimension {head_dim} is above {LARGEST_HEAD_DIM}, the largest whose "
            "sums fit the registers of the Triton kernel; pass "
            'implementation="xla_chunked".'
        )
    if dropout is not None:
        raise NotImplementedError(
            f"Dropout of rate {dropout.rate} is not served by the Triton kernel, which "
            'masks by windows alone; pass dropout=None or implementation="xla_chunked".'
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(constants: _Constants, *arrays: jax.Array) -> jax.Array:
    return _attention_forward(constants, *arrays)[0]


def _attention_forward(constants: _Constants, *arrays: jax.Array) -> tuple:
    q_BTHE = arrays[0]
    num_rows, num_queries, num_heads, _ = q_BTHE.shape
    cut = _cut(constants, constants.sizes.forward, arrays)
    log_sum_exp_BHT = jax.ShapeDtypeStruct(
        (num_rows, num_heads, num_queries), jnp.float32
    )
    out_BTHE, log_sum_exp_BHT = _launch(
        forward_kernel,
        cut,
        (cut.num_query_blocks, num_heads, num_rows),
        block_schedule(_pairs(cut, arrays)),
        arrays,
        like=(q_BTHE, log_sum_exp_BHT),
        interpret=constants.interpret,
    )
    out_BTHE, log_sum_exp_BHT = saved_results(out_BTHE, log_sum_exp_BHT)
    return out_BTHE, (*arrays, out_BTHE, log_sum_exp_BHT)


def _attention_backward(
    constants: _Constants, residuals: tuple, dout_BTHE: jax.Array
) -> tuple:
    *arrays, out_BTHE, log_sum_exp_BHT = residuals
    q_BTHE, k_BSGE, v_BSGE, *visibility = arrays
    num_rows, _, num_heads, _ = q_BTHE.shape
    # out . dout is the mean of dweight under the softmax.
    product_BTHE = out_BTHE.astype(jnp.float32) * dout_BTHE.astype(jnp.float32)
    delta_BHT = jnp.sum(product_BTHE, axis=-1).swapaxes(1, 2)
    inputs = (q_BTHE, k_BSGE, v_BSGE, dout_BTHE, log_sum_exp_BHT, delta_BHT)

    cut = _cut(constants, constants.sizes.query_gradient, arrays)
    (dq_BTHE,) = _launch(
        query_gradient_kernel,
        cut,
        (cut.num_query_blocks, num_heads, num_rows),
        block_schedule(_pairs(cut, arrays)),
        (*inputs, *visibility),
        like=(q_BTHE,),
        interpret=constants.interpret,
    )
    cut = _cut(constants, constants.sizes.key_gradient, arrays)
    dk_BSGE, dv_BSGE = _launch(
        key_gradient_kernel,
        cut,
        (cut.num_key_blocks, k_BSGE.shape[2], num_rows),
        block_schedule(_pairs(cut, arrays).transposed()),
        (*inputs, *visibility),
        like=(k_BSGE, v_BSGE),
        interpret=constants.interpret,
    )
    return dq_BTHE, dk_BSGE, dv_BSGE, None, None, None


_attention.defvjp(_attention_forward, _attention_backward)


def _cut(constants: _Constants, blocks: Blocks, arrays: Sequence[jax.Array]) -> Cut:
    """Cut one pass, with no block twice as long as its tokens."""
    _, num_queries, num_heads, head_dim = arrays[0].shape
    _, num_keys, num_kv_heads, _ = arrays[1].shape

    def fitted(block: int, num_tokens: int) -> int:
        return min(block, max(pl.next_power_of_2(num_tokens), SMALLEST_BLOCK))

    blocks = blocks._replace(
        query=fitted(blocks.query, num_queries), key=fitted(blocks.key, num_keys)
    )
    return Cut(
        blocks=blocks,
        num_queries=num_queries,
        num_keys=num_keys,
        head_dim=head_dim,
        heads_per_kv_head=num_heads // num_kv_heads,
        scale=constants.scale,
    )


def _pairs(cut: Cut, arrays: Sequence[jax.Array]) -> BlockMap:
    query_block, key_block = cut.blocks.query, cut.blocks.key
    return block_map(*arrays[3:], query_block=query_block, key_block=key_block)


def _launch(
    kernel: Callable[..., None],
    cut: Cut,
    grid: tuple[int, int, int],
    schedule: BlockSchedule,
    inputs: tuple[jax.Array, ...],
    *,
    like: tuple[jax.Array | jax.ShapeDtypeStruct, ...],
    interpret: bool,
) -> tuple[jax.Array, ...]:
    """Run a program per (block, head, row), with results of the shapes in `like`.

    Blocks of one head follow each other, so that programs that run at the same time
    read the same keys, or queries, from the L2 cache.
    """
    spec = functools.partial(_row_spec, cut=cut)
    power = plain_power if interpret else fast_power
    return pl.pallas_call(
        functools.partial(kernel, cut=cut, power=power),
        grid=grid,
        in_specs=[*map(spec, inputs), *map(spec, schedule)],
        out_specs=[*map(spec, like)],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like],
        compiler_params=pallas_triton.CompilerParams(
            num_warps=cut.blocks.warps, num_stages=cut.blocks.stages
        ),
        interpret=interpret,
    )(*inputs, *schedule)


def _row_spec(x: jax.Array | jax.ShapeDtypeStruct, cut: Cut) -> pl.BlockSpec:
    """Show a program all of its row; the kernel slices it. E counts whole lanes."""
    shape = (*x.shape[1:3], cut.lanes) if x.ndim == 4 else x.shape[1:]
    zeros = (0,) * len(shape)
    return pl.BlockSpec((None, *shape), lambda block, head, row: (row, *zeros))
