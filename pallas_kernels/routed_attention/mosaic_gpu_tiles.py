"""What the three Hopper kernels of routed attention share: tiles, rings and masks.

One program *owns* a block of tokens (queries for the output and their gradient, keys
for theirs) and *visits* the blocks of a schedule. Its compute warpgroups own a part of
the rows of each score tile `[owned, visited]`; one more warpgroup does nothing but
fetch what is visited, by TMA (the chip's copy engine), into a ring of buffers. A buffer
has two barriers: `ready` (its bytes have come) and `free` (every compute warpgroup has
read them).
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.routed_attention.block_sizes import Blocks
from pallas_kernels.routed_attention.reference import INVISIBLE_SCORE

# Rows of one wgmma instruction: what a warpgroup of 4 warps owns is a multiple of it.
WGMMA_ROWS = 64
WARPS_PER_WARPGROUP = 4

# How a warpgroup holds a score tile, and one number per row or per column of it.
TILE = plgpu.Layout.WGMMA
PER_OWNED = TILE.reduce(1)
PER_VISITED = TILE.reduce(0)

# JAX documents this name but does not mark it as exported.
Accumulator = plgpu.ACC  # pyright: ignore[reportPrivateImportUsage]

# A chip's multiprocessor has 512 registers for each of 128 threads: all warpgroups of a
# program start with equal shares, in steps of 8. The one that fetches keeps this many
# and leaves the rest to the others (the split of FlashAttention-3, arXiv 2407.08608).
_REGISTERS, _REGISTER_STEP = 512, 8
_FETCH_REGISTERS = 24

COMPILER_PARAMS = plgpu.CompilerParams(approx_math=True)

Interpret = bool | plgpu.InterpretGPUParams


class KeyRing(NamedTuple):
    """The keys, values and key positions in flight to programs that own queries.

    First the types of its buffers and barriers, then, in a kernel, themselves.
    Positions come with the keys.
    """

    k: Any
    v: Any
    position: Any
    k_ready: Any
    k_free: Any
    v_ready: Any
    v_free: Any


class Options(NamedTuple):
    """What a kernel is compiled for; `blocks` are those of its own pass."""

    scale: float
    blocks: Blocks
    interpret: Interpret

    @property
    def warpgroups(self) -> int:
        """Warpgroups that compute."""
        return self.blocks.warps // WARPS_PER_WARPGROUP


def zeros(shape: tuple[int, ...], layout: Any) -> jax.Array:
    """Return float32 zeros in registers."""
    return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), layout)


def per_owned(x: jax.Array, tile: jax.Array) -> jax.Array:
    """Repeat one number per row along the columns of a tile."""
    return lax.broadcast_in_dim(x, tile.shape, (0,))


def per_visited(x: jax.Array, tile: jax.Array) -> jax.Array:
    """Repeat one number per column along the rows of a tile."""
    return lax.broadcast_in_dim(x, tile.shape, (1,))


def masked(score: jax.Array, *comparisons: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Keep the scores where `first <= second` in every pair, for all others -inf.

    Nearly: `INVISIBLE_SCORE` is finite, and its weight still is exactly zero.
    """
    holds = (first <= second for first, second in comparisons)
    return jnp.where(functools.reduce(operator.and_, holds), score, INVISIBLE_SCORE)


def as_operand(scratch: tuple, warpgroup: jax.Array) -> Callable:
    """Return what hands a tile in registers to wgmma as its left operand.

    On the chip that is the tile itself. JAX's interpreter multiplies shared memory
    only, so there it passes through a scratch buffer: the one difference between the
    interpreted programs and the compiled ones.
    """

    def from_registers(tile: jax.Array) -> jax.Array:
        return tile

    def from_scratch(tile: jax.Array):
        scratch_smem = scratch[0].at[warpgroup]
        scratch_smem[...] = tile
        plgpu.commit_smem()
        return scratch_smem

    return from_scratch if scratch else from_registers


def operand_scratch(options: Options, owned: int, visited: int, dtype) -> tuple:
    """Return the scratch types of `as_operand`."""
    if not options.interpret:
        return ()
    rows = owned // options.warpgroups
    return (plgpu.SMEM((options.warpgroups, rows, visited), dtype),)


def ring_barriers(options: Options, arrivals: int) -> tuple:
    """Return the types of `ready` and `free`; each buffer is filled by some copies."""
    stages = options.blocks.stages
    return (
        plgpu.Barrier(num_arrivals=arrivals, num_barriers=stages),
        plgpu.Barrier(num_arrivals=options.warpgroups, num_barriers=stages),
    )


def split_warpgroups(
    options: Options, fetch: Callable[[], None], compute: Callable[[], None]
) -> None:
    """Run `compute` in all warpgroups but the last, which runs `fetch`.

    A program of one compute warpgroup has registers enough for both as it is.
    """
    warpgroups = options.warpgroups
    index = lax.axis_index("warpgroup")
    start = _REGISTERS // (warpgroups + 1) // _REGISTER_STEP * _REGISTER_STEP
    spare = (start - _FETCH_REGISTERS) // warpgroups // _REGISTER_STEP * _REGISTER_STEP
    share = start + spare

    @pl.when(index == warpgroups)
    def _():
        if warpgroups > 1:
            plgpu.set_max_registers(_FETCH_REGISTERS, action="decrease")
        fetch()

    @pl.when(index < warpgroups)
    def _():
        if warpgroups > 1:
            plgpu.set_max_registers(share, action="increase")
        compute()


def slot_of(step: jax.Array, options: Options) -> jax.Array:
    """Return the buffer of the ring that a step uses."""
    return lax.rem(step, jnp.int32(options.blocks.stages))


def await_free(step: jax.Array, options: Options, free) -> None:
    """Wait until the buffer of this step, if it was ever filled, is read.

    The fence orders the copy behind plain reads (of positions, say) as well; reads by
    wgmma would not need it.
    """

    @pl.when(step >= options.blocks.stages)
    def _():
        plgpu.barrier_wait(free.at[slot_of(step, options)])
        plgpu.commit_smem()


def drain(num_steps: jax.Array, options: Options, *barriers) -> None:
    """Wait until every buffer is read, as whoever waits on a barrier must."""

    @pl.loop(num_steps, num_steps + options.blocks.stages)
    def _(step):
        for free in barriers:
            await_free(step, options, free)


def key_ring(options: Options, head_dim: int, dtype) -> KeyRing:
    """Return the types of a ring of keys."""
    blocks = options.blocks
    tokens = plgpu.SMEM((blocks.stages, blocks.key, head_dim), dtype)
    position = plgpu.SMEM((blocks.stages, blocks.key), jnp.int32)
    k_barriers = ring_barriers(options, arrivals=2)
    v_barriers = ring_barriers(options, arrivals=1)
    return KeyRing(tokens, tokens, position, *k_barriers, *v_barriers)


def fetch_keys(
    options: Options,
    ring: KeyRing,
    key_refs: tuple,
    indices: tuple[jax.Array, jax.Array],
    block_of_step: Callable[[jax.Array], jax.Array],
    num_steps: jax.Array,
) -> None:
    """Fill a ring from `key_refs` (k, v, position) at (row, head), block by block."""
    k_ref, v_ref, position_ref = key_refs
    row, kv_head = indices
    key_block = options.blocks.key

    @pl.loop(0, num_steps)
    def _(step):
        slot = slot_of(step, options)
        keys = pl.ds(block_of_step(step) * key_block, key_block)
        await_free(step, options, ring.k_free)
        ready = ring.k_ready.at[slot]
        plgpu.copy_gmem_to_smem(k_ref.at[row, keys, kv_head], ring.k.at[slot], ready)
        plgpu.copy_gmem_to_smem(
            position_ref.at[row, keys], ring.position.at[slot], ready
        )
        await_free(step, options, ring.v_free)
        ready = ring.v_ready.at[slot]
        plgpu.copy_gmem_to_smem(v_ref.at[row, keys, kv_head], ring.v.at[slot], ready)

    drain(num_steps, options, ring.k_free, ring.v_free)


def launch(
    kernel: Callable,
    options: Options,
    *,
    out_type: Any,
    scratch_types: tuple,
    grid: tuple[int, int, int],
) -> Callable:
    """Return the kernel over (row, head, owned block), the last of them fastest.

    Programs that run together then visit the same head, whose blocks stay in the L2
    cache.
    """
    interpret = options.interpret
    return plgpu.kernel(
        kernel,
        out_type=out_type,
        scratch_types=scratch_types,
        grid=grid,
        grid_names=("row", "head", "block"),
        num_threads=options.warpgroups + 1,
        thread_name="warpgroup",
        compiler_params=COMPILER_PARAMS,
        interpret=plgpu.InterpretGPUParams() if interpret is True else interpret,
    )
