"""The three programs of `triton.py`: output, gradient of q, gradients of k and v.

Each program is one block of one head of one row. It loads its own block once, loops
over the inner blocks that need no mask, then over those that do, and stores its result
once. Tokens beyond T or S and lanes beyond E load as zeros, which add nothing to any
result, and are not stored.

Legend, beside that of `reference.py` and `block_bounds.py`: Q and K are the tokens of
one block of queries and keys; E counts whole lanes, the next power of 2.
"""

import functools
import struct
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pallas_triton

from pallas_kernels.routed_attention.block_sizes import Blocks
from pallas_kernels.routed_attention.online_softmax import LOG2_E
from pallas_kernels.routed_attention.reference import INVISIBLE_SCORE

# The least a tensor core multiplies in each direction.
SMALLEST_BLOCK = 16

# Where running maxima start: below every product of q and k, and so far above
# INVISIBLE_SCORE that an invisible weight is 0 without a second mask.
_LOWEST_MAXIMUM = -1e30

# 2^(score * scale - offset): `plain_power` or `fast_power`.
Power = Callable[[jax.Array, float, jax.Array], jax.Array]


class Cut(NamedTuple):
    """How one pass divides one shape; a kernel is compiled for it."""

    blocks: Blocks
    num_queries: int
    num_keys: int
    head_dim: int
    heads_per_kv_head: int
    scale: float

    @property
    def lanes(self) -> int:
        """E rounded up to what Triton can hold."""
        return max(SMALLEST_BLOCK, pl.next_power_of_2(self.head_dim))

    @property
    def num_query_blocks(self) -> int:
        """N, of which the last may be ragged."""
        return -(-self.num_queries // self.blocks.query)

    @property
    def num_key_blocks(self) -> int:
        """M, of which the last may be ragged."""
        return -(-self.num_keys // self.blocks.key)

    @property
    def power_scale(self) -> float:
        """The factor from a product of q and k to the exponent of 2."""
        return self.scale * LOG2_E

    def queries(self, block: jax.Array) -> "Span":
        """The tokens of a block of queries."""
        return _span(block, self.blocks.query, self.num_queries)

    def keys(self, block: jax.Array, *, is_whole: bool = False) -> "Span":
        """The tokens of a block of keys; one that is seen whole is never ragged."""
        span = _span(block, self.blocks.key, self.num_keys)
        return span._replace(end=None) if is_whole else span


class Span(NamedTuple):
    """`size` tokens from `first` on; none from `end` on, unless that is None, exist."""

    first: jax.Array
    size: int
    end: int | None


def _span(block: jax.Array, size: int, num_tokens: int) -> Span:
    return Span(block * size, size, num_tokens if num_tokens % size else None)


def plain_power(score: jax.Array, scale: float, offset: jax.Array) -> jax.Array:
    """Return `2 ** (score * scale - offset)`, float32, in any interpreter."""
    return jnp.exp2(score * scale - offset)


def fast_power(score: jax.Array, scale: float, offset: jax.Array) -> jax.Array:
    """Return `2 ** (score * scale - offset)`, float32, in two instructions.

    Triton inside XLA neither joins a product with a sum, nor lets an exponential below
    2 ** -126 be zero, which costs three instructions more; there are T x S of these.
    """
    (scale_bits,) = struct.unpack("<I", struct.pack("<f", scale))
    (power,) = pallas_triton.elementwise_inline_asm(
        f"{{ .reg .f32 x; fma.rn.f32 x, $1, 0f{scale_bits:08X}, $2; "
        "ex2.approx.ftz.f32 $0, x; }",
        args=[score, jnp.broadcast_to(-offset, score.shape)],
        constraints="=f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(score.shape, jnp.float32)],
    )
    return power


def forward_kernel(
    q_ref,
    k_ref,
    v_ref,
    window_start_ref,
    window_end_ref,
    key_position_ref,
    inner_ref,
    num_whole_ref,
    num_visited_ref,
    out_ref,
    log_sum_exp_ref,
    *,
    cut: Cut,
    power: Power,
) -> None:
    """Attend from one block of queries of one head, by online softmax."""
    block, head = _query_block(cut), pl.program_id(1)
    kv_head = jax.lax.div(head, cut.heads_per_kv_head)
    queries = cut.queries(block)
    q_QE = _load_head(q_ref, head, queries, cut)
    load_windows = functools.partial(
        _load_windows, window_start_ref, window_end_ref, queries
    )
    zeros_Q = jnp.zeros((queries.size,), jnp.float32)

    def visit(key_block, _, running: tuple, windows: tuple | None) -> tuple:
        max_Q, sum_Q, value_QE = running
        keys = cut.keys(key_block, is_whole=windows is None)
        k_KE = _load_head(k_ref, kv_head, keys, cut)
        v_KE = _load_head(v_ref, kv_head, keys, cut)
        score_QK = _score(q_QE, k_KE, windows, key_position_ref, keys)
        new_max_Q = jnp.maximum(max_Q, jnp.max(score_QK, axis=1))
        offset_Q = new_max_Q * cut.power_scale
        weight_QK = power(score_QK, cut.power_scale, offset_Q[:, None])
        shrink_Q = power(max_Q - new_max_Q, cut.power_scale, zeros_Q)
        sum_Q = sum_Q * shrink_Q + jnp.sum(weight_QK, axis=1)
        value_QE = value_QE * shrink_Q[:, None]
        value_QE += _dot(weight_QK.astype(v_KE.dtype), v_KE, (1, 0))
        return new_max_Q, sum_Q, value_QE

    running = (zeros_Q + _LOWEST_MAXIMUM, zeros_Q, jnp.zeros(q_QE.shape, jnp.float32))
    counts = (num_whole_ref[block], num_visited_ref[block])
    walk = functools.partial(_walk, visit, load_windows, inner_ref, block, counts)
    max_Q, sum_Q, value_QE = walk(running)
    # A query that sees nothing has sum 0 and value 0: any positive divisor gives zero.
    sum_Q = jnp.where(sum_Q > 0.0, sum_Q, 1.0)
    _store_head(out_ref, head, queries, cut, value_QE / sum_Q[:, None])
    log_sum_exp_Q = max_Q * cut.power_scale + jnp.log2(sum_Q)
    place = log_sum_exp_ref.at[head, _slice(queries)]
    pallas_triton.store(place, log_sum_exp_Q, mask=_existing(queries))


def query_gradient_kernel(
    q_ref,
    k_ref,
    v_ref,
    dout_ref,
    log_sum_exp_ref,
    delta_ref,
    window_start_ref,
    window_end_ref,
    key_position_ref,
    inner_ref,
    num_whole_ref,
    num_visited_ref,
    dq_ref,
    *,
    cut: Cut,
    power: Power,
) -> None:
    """Sum dscore . k over the keys that one block of queries of one head sees."""
    block, head = _query_block(cut), pl.program_id(1)
    kv_head = jax.lax.div(head, cut.heads_per_kv_head)
    queries = cut.queries(block)
    q_QE = _load_head(q_ref, head, queries, cut)
    dout_QE = _load_head(dout_ref, head, queries, cut)
    log_sum_exp_Q1 = _load_statistic(log_sum_exp_ref, head, queries)[:, None]
    delta_Q1 = _load_statistic(delta_ref, head, queries)[:, None]
    load_windows = functools.partial(
        _load_windows, window_start_ref, window_end_ref, queries
    )

    def visit(key_block, _, dq_QE: jax.Array, windows: tuple | None) -> jax.Array:
        keys = cut.keys(key_block, is_whole=windows is None)
        k_KE = _load_head(k_ref, kv_head, keys, cut)
        v_KE = _load_head(v_ref, kv_head, keys, cut)
        score_QK = _score(q_QE, k_KE, windows, key_position_ref, keys)
        weight_QK = power(score_QK, cut.power_scale, log_sum_exp_Q1)
        dscore_QK = weight_QK * (_dot(dout_QE, v_KE, (1, 1)) - delta_Q1)
        return dq_QE + _dot(dscore_QK.astype(k_KE.dtype), k_KE, (1, 0))

    zeros_QE = jnp.zeros(q_QE.shape, jnp.float32)
    counts = (num_whole_ref[block], num_visited_ref[block])
    dq_QE = _walk(visit, load_windows, inner_ref, block, counts, zeros_QE)
    _store_head(dq_ref, head, queries, cut, dq_QE * cut.scale)


def key_gradient_kernel(
    q_ref,
    k_ref,
    v_ref,
    dout_ref,
    log_sum_exp_ref,
    delta_ref,
    window_start_ref,
    window_end_ref,
    key_position_ref,
    inner_ref,
    num_whole_ref,
    num_visited_ref,
    dk_ref,
    dv_ref,
    *,
    cut: Cut,
    power: Power,
) -> None:
    """Sum over the queries of every head that see one block of keys of one kv head.

    Scores are made as [K, Q], so that each product of them with queries finds them in
    registers the way it needs them.
    """
    # Early keys are seen by the most queries of causal rows: they start first.
    block, kv_head = pl.program_id(0), pl.program_id(1)
    keys = cut.keys(block)
    k_KE = _load_head(k_ref, kv_head, keys, cut)
    v_KE = _load_head(v_ref, kv_head, keys, cut)
    load_position = functools.partial(_load_tokens, key_position_ref, keys, other=-1)
    # A block of queries is visited once for each head that reads this kv head, one
    # after the other: heads are neighbours in memory and share the windows.
    num_heads = cut.heads_per_kv_head

    def visit(query_block, repeat, gradients: tuple, position_K) -> tuple:
        dk_KE, dv_KE = gradients
        head = kv_head * num_heads + repeat
        queries = cut.queries(query_block)
        q_QE = _load_head(q_ref, head, queries, cut)
        dout_QE = _load_head(dout_ref, head, queries, cut)
        log_sum_exp_1Q = _load_statistic(log_sum_exp_ref, head, queries)[None, :]
        delta_1Q = _load_statistic(delta_ref, head, queries)[None, :]
        score_KQ = _dot(k_KE, q_QE, (1, 1))
        if position_K is not None:
            start_Q, end_Q = _load_windows(window_start_ref, window_end_ref, queries)
            visible_KQ = _visible(start_Q[None, :], end_Q[None, :], position_K[:, None])
            score_KQ = jnp.where(visible_KQ, score_KQ, INVISIBLE_SCORE)
        weight_KQ = power(score_KQ, cut.power_scale, log_sum_exp_1Q)
        dv_KE += _dot(weight_KQ.astype(dout_QE.dtype), dout_QE, (1, 0))
        dscore_KQ = weight_KQ * (_dot(v_KE, dout_QE, (1, 1)) - delta_1Q)
        dk_KE += _dot(dscore_KQ.astype(q_QE.dtype), q_QE, (1, 0))
        return dk_KE, dv_KE

    zeros_KE = jnp.zeros(k_KE.shape, jnp.float32)
    counts = (num_whole_ref[block], num_visited_ref[block])
    walk = functools.partial(_walk, visit, load_position, inner_ref, block, counts)
    dk_KE, dv_KE = walk((zeros_KE, zeros_KE), repeats=num_heads)
    _store_head(dk_ref, kv_head, keys, cut, dk_KE * cut.scale)
    _store_head(dv_ref, kv_head, keys, cut, dv_KE)


def _query_block(cut: Cut) -> jax.Array:
    """The block of this program: last ones, the longest of causal rows, start first."""
    return cut.num_query_blocks - 1 - pl.program_id(0)


def _walk(
    visit: Callable,
    load_own: Callable,
    inner_ref,
    block: jax.Array,
    counts: tuple[jax.Array, jax.Array],
    carry,
    repeats: int = 1,
):
    """Visit the whole blocks of a schedule, then the partial ones.

    `visit(inner_block, repeat, carry, own)` is called `repeats` times for each and
    returns the next carry. `own` is None for a whole block, else what `load_own` says
    of the program's own tokens, which takes no registers before it is needed.

    The number of a block is loaded one step before it is used: if a step's first load
    gave the address of the others, Triton would keep one block in flight however many
    stages it is given.
    """
    last = inner_ref.shape[1] - 1

    def step(index, carried: tuple, own=None) -> tuple:
        inner_block, carry = carried
        after = jnp.minimum(jax.lax.div(index + 1, repeats), last)
        carry = visit(inner_block, jax.lax.rem(index, repeats), carry, own)
        return inner_ref[block, after], carry

    num_whole, num_visited = (count * repeats for count in counts)
    carried = jax.lax.fori_loop(0, num_whole, step, (inner_ref[block, 0], carry))
    step = functools.partial(step, own=load_own())
    return jax.lax.fori_loop(num_whole, num_visited, step, carried)[1]


def _score(
    q_QE: jax.Array, k_KE: jax.Array, windows: tuple | None, position_ref, keys: Span
) -> jax.Array:
    """Score keys for queries, masked by their windows; without any, all are seen."""
    score_QK = _dot(q_QE, k_KE, (1, 1))
    if windows is None:
        return score_QK
    start_Q, end_Q = windows
    position_1K = _load_tokens(position_ref, keys, other=-1)[None, :]
    visible_QK = _visible(start_Q[:, None], end_Q[:, None], position_1K)
    return jnp.where(visible_QK, score_QK, INVISIBLE_SCORE)


def _visible(start: jax.Array, end: jax.Array, position: jax.Array) -> jax.Array:
    return (start <= position) & (position < end)


def _dot(a: jax.Array, b: jax.Array, contracted: tuple[int, int]) -> jax.Array:
    """Multiply into float32; HIGHEST keeps float32 operands from becoming tf32."""
    return jax.lax.dot_general(
        a,
        b,
        (((contracted[0],), (contracted[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _load_windows(start_ref, end_ref, queries: Span) -> tuple[jax.Array, jax.Array]:
    """Return window starts and ends [Q]; no start before 0, so none holds padding."""
    start_Q = _load_tokens(start_ref, queries, other=0)
    return jnp.maximum(start_Q, 0), _load_tokens(end_ref, queries, other=0)


def _load_tokens(ref, span: Span, other: int) -> jax.Array:
    return _load(ref, (_slice(span),), _existing(span), other)


def _load_statistic(ref, head: jax.Array, queries: Span) -> jax.Array:
    return _load(ref, (head, _slice(queries)), _existing(queries), 0.0)


def _load_head(ref, head: jax.Array, span: Span, cut: Cut) -> jax.Array:
    index = (_slice(span), head, slice(None))
    return _load(ref, index, _existing_lanes(span, cut), 0.0)


def _load(ref, index: tuple, mask: jax.Array | None, other: float) -> jax.Array:
    if mask is None:
        return pallas_triton.load(ref.at[index])
    return pallas_triton.load(ref.at[index], mask=mask, other=other)


def _store_head(ref, head: jax.Array, span: Span, cut: Cut, value: jax.Array) -> None:
    place = ref.at[_slice(span), head, :]
    value = value.astype(ref.dtype)
    pallas_triton.store(place, value, mask=_existing_lanes(span, cut))


def _slice(span: Span):
    return pl.ds(span.first, span.size)


def _existing(span: Span) -> jax.Array | None:
    """Which tokens [size] exist; None if all do."""
    if span.end is None:
        return None
    return span.first + jax.lax.iota(jnp.int32, span.size) < span.end


def _existing_lanes(span: Span, cut: Cut) -> jax.Array | None:
    """Which numbers of [size, E] exist, up to broadcasting; None if all do."""
    token = _existing(span)
    if cut.lanes == cut.head_dim:
        return token if token is None else token[:, None]
    lane_1E = jax.lax.iota(jnp.int32, cut.lanes)[None, :] < cut.head_dim
    return lane_1E if token is None else token[:, None] & lane_1E
