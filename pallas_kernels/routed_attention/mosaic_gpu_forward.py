"""The output of routed attention on Hopper, and the log-sum-exp its gradients need.

Online softmax (Rabe and Staats, arXiv 2112.05682) with the division of labour of
FlashAttention-3 (arXiv 2407.08608): one warpgroup fetches keys and values while two
others multiply and exponentiate.

Legend, beside that of `reference.py`: W = 2 for the first and last position of a
window.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.routed_attention.block_bounds import BlockSchedule
from pallas_kernels.routed_attention.mosaic_gpu_tiles import (
    PER_OWNED,
    PER_VISITED,
    TILE,
    Accumulator,
    Options,
    as_operand,
    fetch_keys,
    key_ring,
    launch,
    masked,
    operand_scratch,
    per_owned,
    per_visited,
    slot_of,
    split_warpgroups,
    zeros,
)
from pallas_kernels.routed_attention.online_softmax import LOG2_E, LOWEST_MAXIMUM


def forward(
    options: Options,
    q_BTHE: jax.Array,
    k_BSGE: jax.Array,
    v_BSGE: jax.Array,
    window_BWT: jax.Array,
    key_position_BS: jax.Array,
    schedule: BlockSchedule,
) -> tuple[jax.Array, jax.Array]:
    """Attend; T and S of q, k and v are multiples of 8.

    Args:
      options: with a scale >= 0.
      q_BTHE: bfloat16 or float16, as k and v.
      k_BSGE: G divides H.
      v_BSGE: as k.
      window_BWT: int32, T padded to whole blocks; no first position is negative.
      key_position_BS: int32, S padded to whole blocks.
      schedule: of key blocks for each block of queries.

    Returns:
      `out_BTHE` in the dtype of q, and float32 `log_sum_exp_BHT` in base 2 with T
      padded to whole blocks; 0 where a query sees nothing.
    """
    num_rows, _, num_heads, head_dim = q_BTHE.shape
    blocks, warpgroups, dtype = options.blocks, options.warpgroups, q_BTHE.dtype
    num_blocks = schedule.inner_BOI.shape[1]
    rows = blocks.query // warpgroups
    padded = (num_rows, num_heads, num_blocks * blocks.query)
    group = num_heads // k_BSGE.shape[2]
    return launch(
        functools.partial(_forward_kernel, options, num_blocks, group),
        options,
        out_type=(
            jax.ShapeDtypeStruct(q_BTHE.shape, dtype),
            jax.ShapeDtypeStruct(padded, jnp.float32),
        ),
        scratch_types=(
            plgpu.SMEM((warpgroups, rows, head_dim), dtype),
            plgpu.SMEM((warpgroups, rows), jnp.float32),
            key_ring(options, head_dim, dtype),
            plgpu.Barrier(num_barriers=warpgroups),
            plgpu.Barrier(num_arrivals=warpgroups),
            operand_scratch(options, blocks.query, blocks.key, dtype),
        ),
        grid=(num_rows, num_heads, num_blocks),
    )(q_BTHE, k_BSGE, v_BSGE, window_BWT, key_position_BS, *schedule)


def _forward_kernel(
    options: Options,
    num_blocks: int,
    group: int,
    q_ref,
    k_ref,
    v_ref,
    window_ref,
    position_ref,
    inner_ref,
    num_whole_ref,
    num_visited_ref,
    out_ref,
    log_sum_exp_ref,
    q_smem,
    log_sum_exp_smem,
    ring,
    q_ready,
    turn,
    scratch,
) -> None:
    row, head = lax.axis_index("row"), lax.axis_index("head")
    # Late queries see most keys of a causal row: the longest programs start first.
    block = num_blocks - 1 - lax.axis_index("block")
    warpgroup = lax.axis_index("warpgroup")
    num_visited = num_visited_ref[row, block]
    _, rows, head_dim = q_smem.shape
    key_block = options.blocks.key
    factor = options.scale * LOG2_E

    def fetch() -> None:
        def block_of_step(step) -> jax.Array:
            return inner_ref[row, block, step]

        key_refs = (k_ref, v_ref, position_ref)
        indices = (row, lax.div(head, jnp.int32(group)))
        fetch_keys(options, ring, key_refs, indices, block_of_step, num_visited)

    def compute_kernel() -> None:
        queries = pl.ds(block * options.blocks.query + warpgroup * rows, rows)
        own_smem = q_smem.at[warpgroup]
        operand = as_operand(scratch, warpgroup)
        ready = q_ready.at[warpgroup]
        plgpu.copy_gmem_to_smem(q_ref.at[row, queries, head], own_smem, ready)
        first, last = (
            plgpu.load(
                window_ref.at[row, i, queries], layout=PER_OWNED, optimized=False
            )
            for i in range(2)
        )
        plgpu.barrier_wait(ready)

        # The tensor cores take turns: while they serve one warpgroup, the other
        # exponentiates. The second begins a turn late, the first ends one late.
        def next_turn() -> None:
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(turn)

        def weigh(step, maximum, *, whole: bool):
            slot = slot_of(step, options)
            plgpu.barrier_wait(ring.k_ready.at[slot])

            def multiply(score_acc):
                plgpu.wgmma(score_acc, own_smem, ring.k.at[slot].transpose((1, 0)))
                next_turn()
                return score_acc[...]

            score = pl.run_scoped(multiply, Accumulator((rows, key_block), jnp.float32))
            if whole:
                plgpu.barrier_arrive(ring.k_free.at[slot])
                # The scale costs nothing: it fuses with the subtraction.
                highest = jnp.maximum(maximum, score.max(axis=1) * factor)
                score = score * factor
            else:
                position = plgpu.load(ring.position.at[slot], layout=PER_VISITED)
                plgpu.barrier_arrive(ring.k_free.at[slot])
                position = per_visited(position, score)
                score = masked(
                    score * factor,
                    (per_owned(first, score), position),
                    (position, per_owned(last, score)),
                )
                highest = jnp.maximum(maximum, score.max(axis=1))
            return jnp.exp2(score - per_owned(highest, score)), highest

        def visit(step, running, *, whole: bool):
            maximum, total, value = running
            slot = slot_of(step, options)
            weight, highest = weigh(step, maximum, whole=whole)
            shrink = jnp.exp2(maximum - highest)
            total = total * shrink + weight.sum(axis=1)
            weight = weight.astype(ring.v.dtype)
            # Keeps the exponentials, which no memory depends on, before the turn.
            highest, shrink, total, weight = lax.optimization_barrier(
                (highest, shrink, total, weight)
            )
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(ring.v_ready.at[slot])
            plgpu.barrier_wait(turn)

            def multiply(value_acc):
                plgpu.wgmma(value_acc, operand(weight), ring.v.at[slot])
                return value_acc[...]

            addend = pl.run_scoped(multiply, Accumulator((rows, head_dim), jnp.float32))
            plgpu.barrier_arrive(ring.v_free.at[slot])
            return highest, total, value * per_owned(shrink, value) + addend

        running = (
            zeros((rows,), PER_OWNED) + LOWEST_MAXIMUM,
            zeros((rows,), PER_OWNED),
            zeros((rows, head_dim), TILE),
        )
        pl.when(warpgroup == 1)(next_turn)
        num_whole = num_whole_ref[row, block]
        visit_whole = functools.partial(visit, whole=True)
        visit_partial = functools.partial(visit, whole=False)
        running = lax.fori_loop(0, num_whole, visit_whole, running)
        running = lax.fori_loop(num_whole, num_visited, visit_partial, running)
        pl.when(warpgroup == 0)(next_turn)
        maximum, total, value = running
        # A query that sees nothing has total 0 and value 0.
        sees = total > 0.0
        total = jnp.where(sees, total, 1.0)
        own_smem[...] = (value * per_owned(1.0 / total, value)).astype(q_smem.dtype)
        log_sum_exp = jnp.where(sees, maximum + jnp.log(total) * LOG2_E, 0.0)
        log_sum_exp_smem.at[warpgroup][...] = log_sum_exp
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(own_smem, out_ref.at[row, queries, head])
        plgpu.copy_smem_to_gmem(
            log_sum_exp_smem.at[warpgroup], log_sum_exp_ref.at[row, head, queries]
        )
        plgpu.wait_smem_to_gmem(0)

    split_warpgroups(options, fetch, compute_kernel)
