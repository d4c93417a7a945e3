"""The gradients of routed attention on Hopper, from recomputed weights.

FlashAttention-2's two passes (arXiv 2307.08691): the gradient of q owns queries and
visits keys, those of k and v own keys and visit the queries of every head that shares
them. Weights come from the saved log-sum-exp; `delta` is the mean of dweight.

Legend, beside that of `reference.py`: W = 2 for the first and last position of a
window, and for log-sum-exp (in base 2) and delta.
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
    Accumulator,
    Options,
    as_operand,
    await_free,
    drain,
    fetch_keys,
    key_ring,
    launch,
    masked,
    operand_scratch,
    per_owned,
    per_visited,
    ring_barriers,
    slot_of,
    split_warpgroups,
)
from pallas_kernels.routed_attention.online_softmax import LOG2_E


def query_gradient(
    options: Options,
    q_BTHE: jax.Array,
    k_BSGE: jax.Array,
    v_BSGE: jax.Array,
    dout_BTHE: jax.Array,
    statistics_BHWT: jax.Array,
    window_BWT: jax.Array,
    key_position_BS: jax.Array,
    schedule: BlockSchedule,
) -> jax.Array:
    """Return `dq_BTHE`; arguments as of `forward`, statistics padded as the windows."""
    num_rows, _, num_heads, head_dim = q_BTHE.shape
    blocks, warpgroups, dtype = options.blocks, options.warpgroups, q_BTHE.dtype
    num_blocks = schedule.inner_BOI.shape[1]
    owned = plgpu.SMEM((warpgroups, blocks.query // warpgroups, head_dim), dtype)
    group = num_heads // k_BSGE.shape[2]
    return launch(
        functools.partial(_query_gradient_kernel, options, num_blocks, group),
        options,
        out_type=jax.ShapeDtypeStruct(q_BTHE.shape, dtype),
        scratch_types=(
            owned,
            owned,
            key_ring(options, head_dim, dtype),
            plgpu.Barrier(num_arrivals=2, num_barriers=warpgroups),
            operand_scratch(options, blocks.query, blocks.key, dtype),
        ),
        grid=(num_rows, num_heads, num_blocks),
    )(
        q_BTHE,
        k_BSGE,
        v_BSGE,
        dout_BTHE,
        statistics_BHWT,
        window_BWT,
        key_position_BS,
        *schedule,
    )


def _query_gradient_kernel(
    options: Options,
    num_blocks: int,
    group: int,
    q_ref,
    k_ref,
    v_ref,
    dout_ref,
    statistics_ref,
    window_ref,
    position_ref,
    inner_ref,
    num_whole_ref,
    num_visited_ref,
    dq_ref,
    q_smem,
    dout_smem,
    ring,
    own_ready,
    scratch,
) -> None:
    row, head = lax.axis_index("row"), lax.axis_index("head")
    # The longest programs of a causal row first, as in the forward pass.
    block = num_blocks - 1 - lax.axis_index("block")
    warpgroup = lax.axis_index("warpgroup")
    num_visited = num_visited_ref[row, block]
    _, rows, head_dim = q_smem.shape
    key_block = options.blocks.key

    def fetch() -> None:
        def block_of_step(step) -> jax.Array:
            return inner_ref[row, block, step]

        key_refs = (k_ref, v_ref, position_ref)
        indices = (row, lax.div(head, jnp.int32(group)))
        fetch_keys(options, ring, key_refs, indices, block_of_step, num_visited)

    def compute_kernel() -> None:
        queries = pl.ds(block * options.blocks.query + warpgroup * rows, rows)
        own_q, own_dout = q_smem.at[warpgroup], dout_smem.at[warpgroup]
        operand = as_operand(scratch, warpgroup)
        ready = own_ready.at[warpgroup]
        plgpu.copy_gmem_to_smem(q_ref.at[row, queries, head], own_q, ready)
        plgpu.copy_gmem_to_smem(dout_ref.at[row, queries, head], own_dout, ready)

        def load(ref) -> jax.Array:
            return plgpu.load(ref, layout=PER_OWNED, optimized=False)

        first, last = (load(window_ref.at[row, i, queries]) for i in range(2))
        log_sum_exp, delta = (
            load(statistics_ref.at[row, head, i, queries]) for i in range(2)
        )
        plgpu.barrier_wait(ready)

        def dscores(step, *, whole: bool) -> jax.Array:
            slot = slot_of(step, options)

            def multiply(score_acc, dweight_acc):
                plgpu.barrier_wait(ring.k_ready.at[slot])
                plgpu.wgmma(score_acc, own_q, ring.k.at[slot].transpose((1, 0)))
                plgpu.barrier_wait(ring.v_ready.at[slot])
                plgpu.wgmma(dweight_acc, own_dout, ring.v.at[slot].transpose((1, 0)))
                # The weights are computed while the second product is under way.
                score = plgpu.wgmma_accumulator_load(score_acc, wait_n=1)
                score = score * (options.scale * LOG2_E)
                if not whole:
                    position = plgpu.load(ring.position.at[slot], layout=PER_VISITED)
                    position = per_visited(position, score)
                    score = masked(
                        score,
                        (per_owned(first, score), position),
                        (position, per_owned(last, score)),
                    )
                weight = jnp.exp2(score - per_owned(log_sum_exp, score))
                dweight = plgpu.wgmma_accumulator_load(dweight_acc, wait_n=0)
                plgpu.barrier_arrive(ring.v_free.at[slot])
                return weight * (dweight - per_owned(delta, dweight))

            tile = Accumulator((rows, key_block), jnp.float32)
            return pl.run_scoped(multiply, tile, tile)

        def accumulate(dq_acc) -> jax.Array:
            def visit(step, _, *, whole: bool) -> tuple:
                slot = slot_of(step, options)
                dscore = dscores(step, whole=whole).astype(ring.k.dtype)
                plgpu.wgmma(dq_acc, operand(dscore), ring.k.at[slot])
                plgpu.wgmma_wait(0)
                plgpu.barrier_arrive(ring.k_free.at[slot])
                return ()

            num_whole = num_whole_ref[row, block]
            lax.fori_loop(0, num_whole, functools.partial(visit, whole=True), ())
            visit_partial = functools.partial(visit, whole=False)
            lax.fori_loop(num_whole, num_visited, visit_partial, ())
            return dq_acc[...]

        dq = pl.run_scoped(accumulate, Accumulator((rows, head_dim), jnp.float32))
        own_q[...] = (dq * options.scale).astype(q_smem.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(own_q, dq_ref.at[row, queries, head])
        plgpu.wait_smem_to_gmem(0)

    split_warpgroups(options, fetch, compute_kernel)


def key_gradients(
    options: Options,
    q_BTHE: jax.Array,
    k_BSGE: jax.Array,
    v_BSGE: jax.Array,
    dout_BTHE: jax.Array,
    statistics_BHWT: jax.Array,
    window_BWT: jax.Array,
    key_position_BS: jax.Array,
    schedule: BlockSchedule,
) -> tuple[jax.Array, jax.Array]:
    """Return `dk_BSGE` and `dv_BSGE`; the schedule is that of the transposed map."""
    num_rows, _, num_kv_heads, head_dim = k_BSGE.shape
    blocks, warpgroups, dtype = options.blocks, options.warpgroups, k_BSGE.dtype
    owned = plgpu.SMEM((warpgroups, blocks.key // warpgroups, head_dim), dtype)
    visited = plgpu.SMEM((blocks.stages, blocks.query, head_dim), dtype)
    group = q_BTHE.shape[2] // num_kv_heads
    return launch(
        functools.partial(_key_gradients_kernel, options, group),
        options,
        out_type=(jax.ShapeDtypeStruct(k_BSGE.shape, dtype),) * 2,
        scratch_types=(
            owned,
            owned,
            visited,
            visited,
            plgpu.SMEM((blocks.stages, 2, blocks.query), jnp.int32),
            plgpu.SMEM((blocks.stages, 2, blocks.query), jnp.float32),
            plgpu.Barrier(num_arrivals=2, num_barriers=warpgroups),
            ring_barriers(options, arrivals=3),
            ring_barriers(options, arrivals=1),
            operand_scratch(options, blocks.key, blocks.query, dtype),
        ),
        grid=(num_rows, num_kv_heads, schedule.inner_BOI.shape[1]),
    )(
        q_BTHE,
        k_BSGE,
        v_BSGE,
        dout_BTHE,
        statistics_BHWT,
        window_BWT,
        key_position_BS,
        *schedule,
    )


def _key_gradients_kernel(
    options: Options,
    group: int,
    q_ref,
    k_ref,
    v_ref,
    dout_ref,
    statistics_ref,
    window_ref,
    position_ref,
    inner_ref,
    num_whole_ref,
    num_visited_ref,
    dk_ref,
    dv_ref,
    k_smem,
    v_smem,
    q_smem,
    dout_smem,
    window_smem,
    statistics_smem,
    own_ready,
    q_barriers,
    dout_barriers,
    scratch,
) -> None:
    row, kv_head = lax.axis_index("row"), lax.axis_index("head")
    block, warpgroup = lax.axis_index("block"), lax.axis_index("warpgroup")
    num_visited = num_visited_ref[row, block]
    (q_ready, q_free), (dout_ready, dout_free) = q_barriers, dout_barriers
    _, rows, head_dim = k_smem.shape
    query_block = options.blocks.query

    def fetch() -> None:
        def fetch_of_head(member, _) -> tuple:
            head = kv_head * group + member

            @pl.loop(0, num_visited)
            def _(visit):
                step = member * num_visited + visit
                slot = slot_of(step, options)
                queries = pl.ds(inner_ref[row, block, visit] * query_block, query_block)
                await_free(step, options, q_free)
                ready = q_ready.at[slot]
                plgpu.copy_gmem_to_smem(
                    q_ref.at[row, queries, head], q_smem.at[slot], ready
                )
                plgpu.copy_gmem_to_smem(
                    window_ref.at[row, :, queries], window_smem.at[slot], ready
                )
                plgpu.copy_gmem_to_smem(
                    statistics_ref.at[row, head, :, queries],
                    statistics_smem.at[slot],
                    ready,
                )
                await_free(step, options, dout_free)
                ready = dout_ready.at[slot]
                plgpu.copy_gmem_to_smem(
                    dout_ref.at[row, queries, head], dout_smem.at[slot], ready
                )

            return ()

        lax.fori_loop(0, group, fetch_of_head, ())
        drain(group * num_visited, options, q_free, dout_free)

    def compute_kernel() -> None:
        keys = pl.ds(block * options.blocks.key + warpgroup * rows, rows)
        own_k, own_v = k_smem.at[warpgroup], v_smem.at[warpgroup]
        operand = as_operand(scratch, warpgroup)
        ready = own_ready.at[warpgroup]
        plgpu.copy_gmem_to_smem(k_ref.at[row, keys, kv_head], own_k, ready)
        plgpu.copy_gmem_to_smem(v_ref.at[row, keys, kv_head], own_v, ready)
        position = plgpu.load(
            position_ref.at[row, keys], layout=PER_OWNED, optimized=False
        )
        plgpu.barrier_wait(ready)

        def load(smem) -> jax.Array:
            return plgpu.load(smem, layout=PER_VISITED)

        def weights(score, slot, *, whole: bool) -> jax.Array:
            score = score * (options.scale * LOG2_E)
            if not whole:
                positions = per_owned(position, score)
                first, last = (load(window_smem.at[slot, i]) for i in range(2))
                score = masked(
                    score,
                    (per_visited(first, score), positions),
                    (positions, per_visited(last, score)),
                )
            log_sum_exp = load(statistics_smem.at[slot, 0])
            return jnp.exp2(score - per_visited(log_sum_exp, score))

        def accumulate(dk_acc, dv_acc) -> tuple[jax.Array, jax.Array]:
            def visit(step, *, whole: bool) -> None:
                slot = slot_of(step, options)

                def multiply(score_acc, dweight_acc) -> jax.Array:
                    plgpu.barrier_wait(q_ready.at[slot])
                    plgpu.wgmma(score_acc, own_k, q_smem.at[slot].transpose((1, 0)))
                    plgpu.barrier_wait(dout_ready.at[slot])
                    plgpu.wgmma(
                        dweight_acc, own_v, dout_smem.at[slot].transpose((1, 0))
                    )
                    # Each product runs while the one before is worked on.
                    score = plgpu.wgmma_accumulator_load(score_acc, wait_n=1)
                    weight = weights(score, slot, whole=whole)
                    plgpu.wgmma(
                        dv_acc, operand(weight.astype(k_smem.dtype)), dout_smem.at[slot]
                    )
                    dweight = plgpu.wgmma_accumulator_load(dweight_acc, wait_n=1)
                    delta = load(statistics_smem.at[slot, 1])
                    return weight * (dweight - per_visited(delta, dweight))

                tile = Accumulator((rows, query_block), jnp.float32)
                dscore = pl.run_scoped(multiply, tile, tile).astype(k_smem.dtype)
                plgpu.wgmma(dk_acc, operand(dscore), q_smem.at[slot])
                plgpu.wgmma_wait(1)
                plgpu.barrier_arrive(dout_free.at[slot])
                plgpu.wgmma_wait(0)
                plgpu.barrier_arrive(q_free.at[slot])

            def visit_queries_of_head(member, _) -> tuple:
                first = member * num_visited
                first_partial = first + num_whole_ref[row, block]

                @pl.loop(first, first_partial)
                def _(step):
                    visit(step, whole=True)

                @pl.loop(first_partial, first + num_visited)
                def _(step):
                    visit(step, whole=False)

                return ()

            lax.fori_loop(0, group, visit_queries_of_head, ())
            return dk_acc[...], dv_acc[...]

        accumulator = Accumulator((rows, head_dim), jnp.float32)
        dk, dv = pl.run_scoped(accumulate, accumulator, accumulator)
        own_k[...] = (dk * options.scale).astype(k_smem.dtype)
        own_v[...] = dv.astype(v_smem.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(own_k, dk_ref.at[row, keys, kv_head])
        plgpu.copy_smem_to_gmem(own_v, dv_ref.at[row, keys, kv_head])
        plgpu.wait_smem_to_gmem(0)

    split_warpgroups(options, fetch, compute_kernel)
