"""Routed attention with memory linear in T + S: online softmax over chunks of keys.

The forward pass keeps a running maximum, sum and weighted value (Rabe and Staats,
arXiv 2112.05682); the backward pass recomputes the weights of each block from the saved
log-sum-exp (FlashAttention, arXiv 2205.14135), and their dropout from its hash.

Each chunk of queries loops over the chunks of keys that one of its queries can see, and
in the backward pass each chunk of keys over the queries that can see it; how many is
known only when the program runs. The rows of a batch share one schedule, the union of
theirs, so that they stay an axis of every matmul and may live on different devices.

Legend, beside that of `reference.py`: N query chunks of Q tokens, M key chunks of C
tokens. Inside this file heads come before tokens, so that a block is a batched matmul.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

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
from pallas_kernels.routed_attention.dropout import (
    AttentionDropout,
    dropping,
    query_codes,
)
from pallas_kernels.routed_attention.online_softmax import LOWEST_MAXIMUM
from pallas_kernels.routed_attention.reference import INVISIBLE_SCORE, visible_keys
from pallas_kernels.routed_attention.saved_results import saved_results

# Up to so many queries and keys are one block unless the caller cuts them. Measured
# 2026-11-22 on 2 CPU cores, T = S = 192 and 256, float32, causal, packed and fully
# visible, forward and backward: 0.6 to 0.8 times as long as two chunks of keys.
# With 384 and 512 tokens the two were equal, with 1024 in 16 rows and heads smaller
# chunks are faster: they skip more and stay in the cache.
_ONE_BLOCK = 256

_float32_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


class _Queries(NamedTuple):
    """Queries and windows: `[B, T, H, E]`, `[B, T]`, or a chunk `[B, G, R, Q, E]`.

    `code` is that of their dropout, `[B, H, T]` or a chunk `[B, G, R, Q]`, or None.
    """

    q: jax.Array
    window_start: jax.Array
    window_end: jax.Array
    code: jax.Array | None


class _Keys(NamedTuple):
    """Keys, values, positions: `[B, S, G, E]`, `[B, S]`, or a chunk `[B, G, C, E]`."""

    k: jax.Array
    v: jax.Array
    position: jax.Array


class _Constants(NamedTuple):
    """What the program is compiled for."""

    scale: float
    rate: float
    blocks: Blocks


class _Statistics(NamedTuple):
    """What the backward pass knows of a query chunk beside its queries."""

    dout: jax.Array  # [B, G, R, Q, E]
    log_sum_exp: jax.Array  # [B, G, R, Q]
    # [B, G, R, Q]: out . dout, the mean of dweight under the softmax. With dropout too:
    # dweight holds the same factors as the weights in out.
    delta: jax.Array


def xla_chunked(
    q_BTHE: jax.Array,
    k_BSGE: jax.Array,
    v_BSGE: jax.Array,
    window_start_BT: jax.Array,
    window_end_BT: jax.Array,
    key_position_BS: jax.Array,
    *,
    scale: float,
    dropout: AttentionDropout | None = None,
    blocks: Blocks | BlockSizes | None = None,
) -> jax.Array:
    """Attend in blocks; arguments and result as `routed_attention`.

    T and S are arbitrary: they are split into the fewest equal chunks of at most
    `blocks.query` and `blocks.key` tokens, padded by less than one token per chunk. One
    cut serves every pass, of `BlockSizes` the forward one. None makes one block of few
    tokens, and reads `block_sizes.json` for more. Supports reverse mode only
    (`jax.custom_vjp`).
    """
    if blocks is None:
        blocks = _default_blocks(q_BTHE, k_BSGE)
    if isinstance(blocks, BlockSizes):
        blocks = blocks.forward
    constants, code_BHT = _Constants(scale, rate=0.0, blocks=blocks), None
    if dropout is not None:
        constants = constants._replace(rate=dropout.rate)
        code_BHT = query_codes(dropout, num_heads=q_BTHE.shape[2])
    queries = _Queries(q_BTHE, window_start_BT, window_end_BT, code_BHT)
    keys = _Keys(k_BSGE, v_BSGE, key_position_BS)
    return _attention(constants, *queries, *keys)


def _default_blocks(q_BTHE: jax.Array, k_BSGE: jax.Array) -> Blocks | BlockSizes:
    num_queries, (num_keys, _, head_dim) = q_BTHE.shape[1], k_BSGE.shape[1:]
    if max(num_queries, num_keys) <= _ONE_BLOCK:
        return Blocks(query=_ONE_BLOCK, key=_ONE_BLOCK)
    shapes = shape_class(num_queries, num_keys, head_dim, q_BTHE.dtype.itemsize)
    return block_sizes("xla_chunked", current_device(), shapes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(constants: _Constants, *arrays: jax.Array | None) -> jax.Array:
    return _attention_forward(constants, *arrays)[0]


def _attention_forward(constants: _Constants, *arrays) -> tuple:
    queries, keys = _Queries(*arrays[:4]), _Keys(*arrays[4:])
    pairs = _pairs_of_any_row(constants.blocks, queries, keys)
    key_chunks = _key_chunks(keys, constants.blocks.key)

    def attend(scanned: tuple) -> tuple:
        query_chunk, schedule = scanned
        return _attend_query_chunk(constants, query_chunk, schedule, key_chunks)

    query_chunks = _query_chunks(queries, keys.k.shape[2], constants.blocks.query)
    out, log_sum_exp = jax.lax.map(attend, (query_chunks, _schedule(pairs)))
    out_BTHE = _merge_queries(out, queries.q)
    out_BTHE, log_sum_exp = saved_results(out_BTHE, log_sum_exp)
    return out_BTHE, (queries, keys, pairs, out_BTHE, log_sum_exp)


def _attention_backward(
    constants: _Constants, residuals: tuple, dout_BTHE: jax.Array
) -> tuple:
    queries, keys, pairs, out_BTHE, log_sum_exp = residuals
    num_kv_heads, most = keys.k.shape[2], constants.blocks.query
    query_chunks = _query_chunks(queries, num_kv_heads, most)
    out = _split_queries(out_BTHE, num_kv_heads, most)
    dout = _split_queries(dout_BTHE, num_kv_heads, most)
    delta = _float32_einsum("NBGRQE,NBGRQE->NBGRQ", out, dout)
    statistics = _Statistics(dout, log_sum_exp, delta)

    def visit_key_chunk(dq, scanned: tuple) -> tuple:
        key_chunk, schedule = scanned

        def visit_query_chunk(chunk: jax.Array, running: tuple) -> tuple:
            dk, dv, dq = running
            inner = _take((query_chunks, statistics, dq), chunk)
            query_chunk, statistics_chunk, dq_BGRQE = inner
            dq_block, dk_block, dv_block = _block_gradients(
                constants, query_chunk, statistics_chunk, key_chunk
            )
            dq_BGRQE = dq_BGRQE + dq_block
            dq = jax.lax.dynamic_update_index_in_dim(dq, dq_BGRQE, chunk, axis=0)
            return dk + dk_block, dv + dv_block, dq

        zeros = jnp.zeros(key_chunk.k.shape, jnp.float32)
        dk, dv, dq = _visit(schedule, visit_query_chunk, (zeros, zeros, dq))
        return dq, (dk, dv)

    dq = jnp.zeros(query_chunks.q.shape, jnp.float32)
    scanned = (_key_chunks(keys, constants.blocks.key), _schedule(pairs.transposed()))
    dq, (dk, dv) = jax.lax.scan(visit_key_chunk, dq, scanned)
    dq = _merge_queries(dq, queries.q)
    dk, dv = _merge_keys(dk, keys.k), _merge_keys(dv, keys.v)
    # In the order of _Queries and _Keys; only q, k and v have a gradient.
    return dq, None, None, None, dk, dv, None


_attention.defvjp(_attention_forward, _attention_backward)


def _pairs_of_any_row(blocks: Blocks, queries: _Queries, keys: _Keys) -> BlockMap:
    """Return the pairs `[1, N, M]` of chunks that meet in one of the rows.

    None counts as whole. Measured 2026-11-22 on 2 CPU cores, T = S = 1024, float32,
    forward and backward: the loops without a mask for whole chunks took 0.97 to 1.1
    times as long, and a third longer to compile.
    """
    pairs = block_map(
        queries.window_start,
        queries.window_end,
        keys.position,
        query_block=_equal_chunk(queries.q.shape[1], blocks.query),
        key_block=_equal_chunk(keys.k.shape[1], blocks.key),
    )
    visible_1NM = jnp.any(pairs.visible_BNM, axis=0, keepdims=True)
    return BlockMap(visible_1NM, jnp.zeros_like(visible_1NM))


def _schedule(pairs: BlockMap) -> BlockSchedule:
    """Return the schedule of the one row of a map, `[O, I]` and `[O]`."""
    return jax.tree.map(lambda x: x[0], block_schedule(pairs))


def _visit(schedule: BlockSchedule, step: Callable, start: tuple) -> tuple:
    """Fold `step(inner, carried)` over the inner chunks of one outer chunk."""
    inner_I, _, num_visited = schedule

    def body(index: jax.Array, carried: tuple) -> tuple:
        return step(inner_I[index], carried)

    return jax.lax.fori_loop(0, num_visited, body, start)


def _take(chunks, index: jax.Array):
    """Return one chunk of a tree whose first axis counts chunks."""
    take = functools.partial(
        jax.lax.dynamic_index_in_dim, index=index, axis=0, keepdims=False
    )
    return jax.tree.map(take, chunks)


def _attend_query_chunk(
    constants: _Constants,
    queries: _Queries,
    schedule: BlockSchedule,
    key_chunks: _Keys,
) -> tuple:
    """Return the output and log-sum-exp of one query chunk over those it visits."""

    def visit_key_chunk(chunk: jax.Array, running: tuple) -> tuple:
        max_BGRQ, sum_BGRQ, value_BGRQE = running
        keys = _take(key_chunks, chunk)
        score_BGRQC = _block_scores(constants, queries, keys)
        new_max_BGRQ = jnp.maximum(max_BGRQ, jnp.max(score_BGRQC, axis=-1))
        weight_BGRQC = jnp.exp(score_BGRQC - new_max_BGRQ[..., None])
        shrink_BGRQ = jnp.exp(max_BGRQ - new_max_BGRQ)
        sum_BGRQ = sum_BGRQ * shrink_BGRQ + jnp.sum(weight_BGRQC, axis=-1)
        drop = _block_dropout(constants, queries, keys)
        weight_BGRQC = drop(weight_BGRQC).astype(keys.v.dtype)
        block_BGRQE = _float32_einsum("BGRQC,BGCE->BGRQE", weight_BGRQC, keys.v)
        value_BGRQE = value_BGRQE * shrink_BGRQ[..., None] + block_BGRQE
        return new_max_BGRQ, sum_BGRQ, value_BGRQE

    shape = queries.q.shape
    zeros = jnp.zeros(shape[:-1], jnp.float32)
    start = (zeros + LOWEST_MAXIMUM, zeros, jnp.zeros(shape, jnp.float32))
    max_BGRQ, sum_BGRQ, value_BGRQE = _visit(schedule, visit_key_chunk, start)
    # A query that sees nothing has sum 0 and value 0: any positive divisor gives zero.
    sum_BGRQ = jnp.where(sum_BGRQ > 0.0, sum_BGRQ, 1.0)
    out_BGRQE = (value_BGRQE / sum_BGRQ[..., None]).astype(queries.q.dtype)
    return out_BGRQE, max_BGRQ + jnp.log(sum_BGRQ)


def _block_scores(constants: _Constants, queries: _Queries, keys: _Keys) -> jax.Array:
    """Return the scores [B, G, R, Q, C] of one block."""
    visible_BQC = visible_keys(queries.window_start, queries.window_end, keys.position)
    score_BGRQC = _float32_einsum("BGRQE,BGCE->BGRQC", queries.q, keys.k)
    score_BGRQC = score_BGRQC * constants.scale
    return jnp.where(visible_BQC[:, None, None], score_BGRQC, INVISIBLE_SCORE)


def _block_dropout(
    constants: _Constants, queries: _Queries, keys: _Keys
) -> Callable[[jax.Array], jax.Array]:
    """Return the dropout of one block of weights, the identity without a code."""
    if queries.code is None:
        return lambda weight_BGRQC: weight_BGRQC
    return dropping(queries.code, keys.position, constants.rate)


def _block_gradients(
    constants: _Constants, queries: _Queries, statistics: _Statistics, keys: _Keys
) -> tuple:
    """Return what one block adds to the gradients of q, k and v, in float32."""
    dout, log_sum_exp, delta = statistics
    score_BGRQC = _block_scores(constants, queries, keys)
    weight_BGRQC = jnp.exp(score_BGRQC - log_sum_exp[..., None])
    drop = _block_dropout(constants, queries, keys)
    dweight_BGRQC = drop(_float32_einsum("BGRQE,BGCE->BGRQC", dout, keys.v))
    dscore_BGRQC = weight_BGRQC * (dweight_BGRQC - delta[..., None]) * constants.scale
    weight_BGRQC = drop(weight_BGRQC).astype(keys.v.dtype)
    dscore_BGRQC = dscore_BGRQC.astype(keys.k.dtype)
    dq = _float32_einsum("BGRQC,BGCE->BGRQE", dscore_BGRQC, keys.k)
    dk = _float32_einsum("BGRQC,BGRQE->BGCE", dscore_BGRQC, queries.q)
    dv = _float32_einsum("BGRQC,BGRQE->BGCE", weight_BGRQC, dout)
    return dq, dk, dv


def _query_chunks(queries: _Queries, num_kv_heads: int, most: int) -> _Queries:
    """Return N query chunks along a new first axis; padding has an empty window."""
    code = queries.code
    if code is not None:
        code_BTH1 = code.swapaxes(1, 2)[..., None]
        code = _split_queries(code_BTH1, num_kv_heads, most)[..., 0]
    return _Queries(
        _split_queries(queries.q, num_kv_heads, most),
        _split_tokens(queries.window_start, most, 0),
        _split_tokens(queries.window_end, most, 0),
        code,
    )


def _key_chunks(keys: _Keys, most: int) -> _Keys:
    """Return M key chunks along a new first axis; padding has position -1."""
    return _Keys(
        _split_tokens(keys.k, most, 0).swapaxes(2, 3),
        _split_tokens(keys.v, most, 0).swapaxes(2, 3),
        _split_tokens(keys.position, most, -1),
    )


def _split_queries(x_BTHE: jax.Array, num_kv_heads: int, most: int) -> jax.Array:
    num_rows, num_tokens, num_heads, head_dim = x_BTHE.shape
    group_shape = (num_kv_heads, num_heads // num_kv_heads, head_dim)
    x_BTGRE = x_BTHE.reshape(num_rows, num_tokens, *group_shape)
    return _split_tokens(x_BTGRE, most, 0).transpose(0, 1, 3, 4, 2, 5)


def _merge_queries(x_NBGRQE: jax.Array, like_BTHE: jax.Array) -> jax.Array:
    num_rows, num_tokens, num_heads, head_dim = like_BTHE.shape
    x_BNQGRE = x_NBGRQE.transpose(1, 0, 4, 2, 3, 5)
    x_BTHE = x_BNQGRE.reshape(num_rows, -1, num_heads, head_dim)
    return x_BTHE[:, :num_tokens].astype(like_BTHE.dtype)


def _merge_keys(x_MBGCE: jax.Array, like_BSGE: jax.Array) -> jax.Array:
    num_rows, num_tokens, num_kv_heads, head_dim = like_BSGE.shape
    x_BMCGE = x_MBGCE.transpose(1, 0, 3, 2, 4)
    x_BSGE = x_BMCGE.reshape(num_rows, -1, num_kv_heads, head_dim)
    return x_BSGE[:, :num_tokens].astype(like_BSGE.dtype)


def _split_tokens(x: jax.Array, most: int, fill: int) -> jax.Array:
    """Split axis 1 into the fewest equal chunks of at most `most`: [N, B, Q, ...]."""
    num_rows, num_tokens = x.shape[:2]
    chunk = _equal_chunk(num_tokens, most)
    padding = [(0, 0)] * x.ndim
    padding[1] = (0, -num_tokens % chunk)
    x = jnp.pad(x, padding, constant_values=fill)
    return x.reshape(num_rows, -1, chunk, *x.shape[2:]).swapaxes(0, 1)


def _equal_chunk(num_tokens: int, most: int) -> int:
    """Return the length of the fewest equal chunks of at most `most` tokens."""
    num_chunks = -(-num_tokens // most)
    return -(-num_tokens // num_chunks)
