"""The gradients of routed attention on a TPU core, from recomputed weights.

Two kernels (FlashAttention-2, arXiv 2307.08691, owns its blocks likewise): one owns
blocks of queries and adds up dq, the other owns blocks of keys and adds up dk and dv.
The second works with transposed scores `[K, Q]`, where a number per query is a row as
it lies in memory.

Legend: that of `mosaic_tpu_forward.py`.
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
from pallas_kernels.routed_attention.online_softmax import LOG2_E


class BackwardArrays(NamedTuple):
    """The operands of both kernels, in whole blocks; their specs, or references."""

    windows: Any  # int32 [B, N, 2, Q]: start and length, at least 0
    key_position: Any  # int32 [B, M, 1, K]
    q: Any  # [B, G, T, E]
    k: Any  # [B, G, S, E]
    v: Any  # [B, G, S, E]
    dout: Any  # [B, G, T, E]
    statistics: Any  # float32 [B, G, N, 2, Q]: log-sum-exp (base 2), out . dout


class _QueryScratch(NamedTuple):
    """What a block of queries keeps while it meets keys; types of, or references."""

    window_start: Any  # int32 [Q, L]
    window_length: Any  # int32 [Q, L]
    log_sum_exp: Any  # float32 [Q, L]
    delta: Any  # float32 [Q, L]
    dq: Any  # float32 [Q, E]


class _KeyScratch(NamedTuple):
    """What a block of keys keeps while it meets queries; types of, or references."""

    key_position: Any  # int32 [K, L]
    dk: Any  # float32 [K, E]
    dv: Any  # float32 [K, E]


def query_gradient_kernel(words, *references, scale: float) -> None:
    """Let one block of queries meet one block of keys; all arguments are references."""
    block = BackwardArrays(*references[:7])
    dq_QE, scratch = references[7], _QueryScratch(*references[8:])
    word = words[pl.program_id(1)]

    @pl.when(word & FIRST != 0)
    def _start():
        spread(block.windows[...], scratch.window_start, scratch.window_length)
        spread(block.statistics[...], scratch.log_sum_exp, scratch.delta)
        scratch.dq[...] = jnp.zeros_like(scratch.dq)

    def meet(is_partial: bool) -> None:
        k_KE, num_keys = block.k[...], block.k.shape[0]
        score_QK = product(block.q[...], k_KE, contract=(1, 1)) * (scale * LOG2_E)
        dweight_QK = product(block.dout[...], block.v[...], contract=(1, 1))
        if is_partial:
            score_QK = mask_scores(
                score_QK,
                widen(scratch.window_start[...], num_keys),
                widen(scratch.window_length[...], num_keys),
                block.key_position[...],
            )
        weight_QK = jnp.exp2(score_QK - widen(scratch.log_sum_exp[...], num_keys))
        dscore_QK = weight_QK * (dweight_QK - widen(scratch.delta[...], num_keys))
        scratch.dq[...] += product(dscore_QK.astype(k_KE.dtype), k_KE, contract=(1, 0))

    pl.when(word & WHOLE != 0)(functools.partial(meet, is_partial=False))
    pl.when(word & PARTIAL != 0)(functools.partial(meet, is_partial=True))

    @pl.when(word & LAST != 0)
    def _finish():
        dq_QE[...] = (scratch.dq[...] * scale).astype(dq_QE.dtype)


def key_gradient_kernel(words, *references, scale: float) -> None:
    """Let one block of keys meet one block of queries; all arguments are references."""
    block = BackwardArrays(*references[:7])
    dk_KE, dv_KE = references[7:9]
    scratch, word = _KeyScratch(*references[9:]), words[pl.program_id(1)]

    @pl.when(word & FIRST != 0)
    def _start():
        spread(block.key_position[...], scratch.key_position)
        scratch.dk[...] = jnp.zeros_like(scratch.dk)
        scratch.dv[...] = jnp.zeros_like(scratch.dv)

    def meet(is_partial: bool) -> None:
        q_QE, dout_QE, statistics_2Q = block.q[...], block.dout[...], block.statistics
        score_KQ = product(block.k[...], q_QE, contract=(1, 1)) * (scale * LOG2_E)
        dweight_KQ = product(block.v[...], dout_QE, contract=(1, 1))
        if is_partial:
            score_KQ = mask_scores(
                score_KQ,
                block.windows[:1],
                block.windows[1:],
                widen(scratch.key_position[...], score_KQ.shape[1]),
            )
        weight_KQ = jnp.exp2(score_KQ - statistics_2Q[:1])
        dscore_KQ = weight_KQ * (dweight_KQ - statistics_2Q[1:])
        weight_KQ, dscore_KQ = (x.astype(q_QE.dtype) for x in (weight_KQ, dscore_KQ))
        scratch.dv[...] += product(weight_KQ, dout_QE, contract=(1, 0))
        scratch.dk[...] += product(dscore_KQ, q_QE, contract=(1, 0))

    pl.when(word & WHOLE != 0)(functools.partial(meet, is_partial=False))
    pl.when(word & PARTIAL != 0)(functools.partial(meet, is_partial=True))

    @pl.when(word & LAST != 0)
    def _finish():
        dk_KE[...] = (scratch.dk[...] * scale).astype(dk_KE.dtype)
        dv_KE[...] = scratch.dv[...].astype(dv_KE.dtype)


def query_gradient(
    work: WorkList, arrays: BackwardArrays, *, scale: float, blocks: Blocks, interpret
) -> jax.Array:
    """Return dq like `q`; `work` has the blocks of queries outside."""
    head_dim = arrays.q.shape[3]
    lanes = (blocks.query, LANES)
    scratch = _QueryScratch(
        window_start=pltpu.VMEM(lanes, jnp.int32),
        window_length=pltpu.VMEM(lanes, jnp.int32),
        log_sum_exp=pltpu.VMEM(lanes, jnp.float32),
        delta=pltpu.VMEM(lanes, jnp.float32),
        dq=pltpu.VMEM((blocks.query, head_dim), jnp.float32),
    )
    (dq,) = _call(
        functools.partial(query_gradient_kernel, scale=scale),
        work,
        arrays,
        blocks,
        like=(arrays.q,),
        scratch=scratch,
        queries_are_outer=True,
        interpret=interpret,
        name="routed_attention_query_gradient",
    )
    return dq


def key_gradient(
    work: WorkList, arrays: BackwardArrays, *, scale: float, blocks: Blocks, interpret
) -> tuple[jax.Array, jax.Array]:
    """Return dk and dv like `k` and `v`; `work` has the blocks of keys outside."""
    head_dim = arrays.k.shape[3]
    scratch = _KeyScratch(
        key_position=pltpu.VMEM((blocks.key, LANES), jnp.int32),
        dk=pltpu.VMEM((blocks.key, head_dim), jnp.float32),
        dv=pltpu.VMEM((blocks.key, head_dim), jnp.float32),
    )
    dk, dv = _call(
        functools.partial(key_gradient_kernel, scale=scale),
        work,
        arrays,
        blocks,
        like=(arrays.k, arrays.v),
        scratch=scratch,
        queries_are_outer=False,
        interpret=interpret,
        name="routed_attention_key_gradient",
    )
    return dk, dv


def _call(
    kernel,
    work: WorkList,
    arrays: BackwardArrays,
    blocks: Blocks,
    *,
    like: tuple[jax.Array, ...],
    scratch: tuple,
    queries_are_outer: bool,
    interpret,
    name: str,
) -> tuple[jax.Array, ...]:
    """Run a kernel whose results are like some of its operands."""
    num_heads, head_dim = arrays.q.shape[1], arrays.q.shape[3]
    specs = pair_specs(
        work.fields, blocks, head_dim, queries_are_outer=queries_are_outer
    )
    in_specs = BackwardArrays(
        windows=specs.windows,
        key_position=specs.position,
        q=specs.queries,
        k=specs.keys,
        v=specs.keys,
        dout=specs.queries,
        statistics=specs.statistics,
    )
    out_spec = specs.queries if queries_are_outer else specs.keys
    return pl.pallas_call(
        kernel,
        out_shape=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(num_heads, work.length),
            in_specs=list(in_specs),
            out_specs=(out_spec,) * len(like),
            scratch_shapes=list(scratch),
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary")
        ),
        interpret=interpret,
        name=name,
    )(work.words, *arrays)
