"""The output of routed attention on a TPU core, with its log-sum-exp.

Each block of queries meets its blocks of keys one after the other and keeps a running
maximum, sum and weighted value (FlashAttention, arXiv 2205.14135), all in base 2: the
hardware raises 2, not e, to a power.

Legend: that of `mosaic_tpu_work.py` and `mosaic_tpu_block.py`. There are G heads, those
of the keys, and T counts the queries of all query heads that share one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.routed_attention.block_sizes import Blocks
from pallas_kernels.routed_attention.mosaic_tpu_block import (
    mask_scores,
    product,
    spread,
    widen,
)
from pallas_kernels.routed_attention.mosaic_tpu_layout import LANES
from pallas_kernels.routed_attention.mosaic_tpu_work import (
    FIRST,
    LAST,
    PARTIAL,
    WHOLE,
    WorkList,
    pair_specs,
)
from pallas_kernels.routed_attention.online_softmax import LOG2_E, LOWEST_MAXIMUM
from pallas_kernels.routed_attention.reference import INVISIBLE_SCORE

# The log-sum-exp of a query that sees nothing: all its weights are then exactly 0.
NO_WEIGHTS = -INVISIBLE_SCORE


class ForwardArrays(NamedTuple):
    """The operands, in whole blocks; their specs, or references, in the same order."""

    windows: Any  # int32 [B, N, 2, Q]: start and length, at least 0
    key_position: Any  # int32 [B, M, 1, K]
    q: Any  # [B, G, T, E]
    k: Any  # [B, G, S, E]
    v: Any  # [B, G, S, E]


class _Running(NamedTuple):
    """What a block of queries keeps while it meets keys; types of, or references."""

    window_start: Any  # int32 [Q, L]
    window_length: Any  # int32 [Q, L]
    maximum: Any  # float32 [Q, L], equal in all lanes
    sum: Any  # float32 [Q, L], to be summed over lanes
    value: Any  # float32 [Q, E]


def forward_kernel(words, *references, scale: float) -> None:
    """Let one block of queries meet one block of keys; all arguments are references."""
    block = ForwardArrays(*references[:5])
    out_QE, log_sum_exp_1Q = references[5:7]
    running, word = _Running(*references[7:]), words[pl.program_id(1)]

    @pl.when(word & FIRST != 0)
    def _start():
        spread(block.windows[...], running.window_start, running.window_length)
        running.maximum[...] = jnp.full_like(running.maximum, LOWEST_MAXIMUM)
        running.sum[...] = jnp.zeros_like(running.sum)
        running.value[...] = jnp.zeros_like(running.value)

    def meet(is_partial: bool) -> None:
        v_KE = block.v[...]
        score_QK = product(block.q[...], block.k[...], contract=(1, 1))
        score_QK, num_keys = score_QK * (scale * LOG2_E), score_QK.shape[1]
        if is_partial:
            score_QK = mask_scores(
                score_QK,
                widen(running.window_start[...], num_keys),
                widen(running.window_length[...], num_keys),
                block.key_position[...],
            )
        old_QL = running.maximum[...]
        new_QL = jnp.maximum(old_QL, jnp.max(score_QK, axis=1, keepdims=True))
        weight_QK = jnp.exp2(score_QK - widen(new_QL, num_keys))
        shrink_QL = jnp.exp2(old_QL - new_QL)
        value_QE = product(weight_QK.astype(v_KE.dtype), v_KE, contract=(1, 0))
        running.maximum[...] = new_QL
        running.sum[...] = running.sum[...] * shrink_QL + _sum_to_lanes(weight_QK)
        shrink_QE = widen(shrink_QL, value_QE.shape[1])
        running.value[...] = running.value[...] * shrink_QE + value_QE

    pl.when(word & WHOLE != 0)(functools.partial(meet, is_partial=False))
    pl.when(word & PARTIAL != 0)(functools.partial(meet, is_partial=True))

    @pl.when(word & LAST != 0)
    def _finish():
        sum_Q1 = jnp.sum(running.sum[...], axis=1, keepdims=True)
        sees_Q1 = sum_Q1 > 0.0
        sum_Q1 = jnp.where(sees_Q1, sum_Q1, 1.0)
        out_QE[...] = (running.value[...] / sum_Q1).astype(out_QE.dtype)
        log_sum_exp_Q1 = running.maximum[:, :1] + jnp.log2(sum_Q1)
        log_sum_exp_1Q[...] = jnp.where(sees_Q1, log_sum_exp_Q1, NO_WEIGHTS).T


def _sum_to_lanes(weight_QK: jax.Array) -> jax.Array:
    """Add every 128th key: the lanes are summed once per query, not once per block."""
    parts = jnp.split(weight_QK, weight_QK.shape[1] // LANES, axis=1)
    return functools.reduce(jnp.add, parts)


def forward(
    work: WorkList, arrays: ForwardArrays, *, scale: float, blocks: Blocks, interpret
) -> tuple[jax.Array, jax.Array]:
    """Run the kernel.

    Args:
      work: pairs of blocks with those of queries outside.
      arrays: the operands.
      scale: multiplies the scores.
      blocks: Q and K.
      interpret: as in `pl.pallas_call`.

    Returns:
      The output like `q`, and the log-sum-exp in base 2, float32 `[B, G, N, 1, Q]`.
    """
    num_rows, num_heads, num_queries, head_dim = arrays.q.shape
    specs = pair_specs(work.fields, blocks, head_dim, queries_are_outer=True)
    in_specs = ForwardArrays(
        windows=specs.windows,
        key_position=specs.position,
        q=specs.queries,
        k=specs.keys,
        v=specs.keys,
    )
    lanes = (blocks.query, LANES)
    scratch = _Running(
        window_start=pltpu.VMEM(lanes, jnp.int32),
        window_length=pltpu.VMEM(lanes, jnp.int32),
        maximum=pltpu.VMEM(lanes, jnp.float32),
        sum=pltpu.VMEM(lanes, jnp.float32),
        value=pltpu.VMEM((blocks.query, head_dim), jnp.float32),
    )
    num_blocks = num_queries // blocks.query
    log_sum_exp_shape = (num_rows, num_heads, num_blocks, 1, blocks.query)
    return pl.pallas_call(
        functools.partial(forward_kernel, scale=scale),
        out_shape=(
            jax.ShapeDtypeStruct(arrays.q.shape, arrays.q.dtype),
            jax.ShapeDtypeStruct(log_sum_exp_shape, jnp.float32),
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(num_heads, work.length),
            in_specs=list(in_specs),
            out_specs=(specs.queries, specs.log_sum_exp),
            scratch_shapes=list(scratch),
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary")
        ),
        interpret=interpret,
        name="routed_attention_forward",
    )(work.words, *arrays)
