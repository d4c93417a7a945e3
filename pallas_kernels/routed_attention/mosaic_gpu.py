"""Routed attention on NVIDIA Hopper (H100, H200) with Pallas Mosaic GPU.

Hopper multiplies fastest from shared memory that its copy engine fills in the
background (wgmma and TMA), so each program has warpgroups that only compute and one
that only fetches. Blocks of keys that no query of a program sees are never fetched.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.device import current_device
from pallas_kernels.routed_attention.block_bounds import (
    BlockSchedule,
    block_map,
    block_schedule,
    pad_positions,
    pad_windows,
)
from pallas_kernels.routed_attention.block_sizes import (
    Blocks,
    BlockSizes,
    block_sizes,
    shape_class,
)
from pallas_kernels.routed_attention.dropout import AttentionDropout
from pallas_kernels.routed_attention.mosaic_gpu_backward import (
    key_gradients,
    query_gradient,
)
from pallas_kernels.routed_attention.mosaic_gpu_forward import forward
from pallas_kernels.routed_attention.mosaic_gpu_tiles import (
    WARPS_PER_WARPGROUP,
    WGMMA_ROWS,
    Interpret,
    Options,
)
from pallas_kernels.routed_attention.saved_results import saved_results

# JAX's names of the chips with wgmma begin so (compute capability 9.0).
HOPPER = tuple(f"NVIDIA {name}" for name in ("H100", "H200", "H800", "H20", "GH200"))
SERVED_DTYPES = ("bfloat16", "float16")
# E is a sum over steps of 16 in wgmma; beyond 128 the accumulators of a warpgroup no
# longer fit its registers.
HEAD_DIM_STEP, LARGEST_HEAD_DIM = 16, 128

# Rows of the smallest tile that a swizzled copy moves: T and S are padded to it.
_COPY_ROWS = 8


class _Constants(NamedTuple):
    """What the program is compiled for."""

    scale: float
    blocks: BlockSizes
    interpret: Interpret

    def of(self, blocks: Blocks) -> Options:
        """Return the options of one pass."""
        return Options(self.scale, blocks, self.interpret)


class _Visibility(NamedTuple):
    """Windows int32 `[B, T]` and key positions int32 `[B, S]`."""

    window_start: jax.Array
    window_end: jax.Array
    key_position: jax.Array


def mosaic_gpu(
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
    interpret: Interpret = False,
) -> jax.Array:
    """Attend on a Hopper GPU; arguments and result as `routed_attention`.

    Args:
      q_BTHE: bfloat16 or float16; E a multiple of 16 up to 128. Any T, but one that is
        no multiple of 8 costs a padded copy, which XLA may fuse with what made q.
      k_BSGE: any S, as for T.
      v_BSGE: as k.
      window_start_BT: int32.
      window_end_BT: int32.
      key_position_BS: int32.
      scale: a Python number.
      dropout: must be None.
      blocks: sizes of the three passes, or None for the table's. `warps` counts the
        warps that compute, 4 for each warpgroup; a warpgroup owns a multiple of 64
        queries (of keys, in the gradients of the keys). `stages` are the buffers of
        the ring.
      interpret: run on any platform by JAX's interpreter of GPU kernels; parameters of
        it in place of True detect races, say.

    Raises:
      NotImplementedError: dropout, another chip, another dtype or head dimension.
      ValueError: blocks that do not divide into warpgroups.
    """
    _check_served(q_BTHE, dropout, interpret)
    num_queries, head_dim = q_BTHE.shape[1], q_BTHE.shape[3]
    if blocks is None:
        shapes = shape_class(num_queries, k_BSGE.shape[1], head_dim, dtype_bytes=2)
        blocks = block_sizes("mosaic_gpu", current_device(), shapes)
    _check_blocks(blocks)
    if scale < 0:
        # The kernels take maxima before they scale.
        q_BTHE, scale = -q_BTHE, -scale
    q_BTHE, k_BSGE, v_BSGE = (_pad_tokens(x) for x in (q_BTHE, k_BSGE, v_BSGE))
    visibility = (window_start_BT, window_end_BT, key_position_BS)
    constants = _Constants(float(scale), blocks, interpret)
    out_BTHE = _attention(constants, q_BTHE, k_BSGE, v_BSGE, *visibility)
    return out_BTHE[:, :num_queries]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(constants: _Constants, *arrays: jax.Array) -> jax.Array:
    return _attention_forward(constants, *arrays)[0]


def _attention_forward(constants: _Constants, *arrays: jax.Array) -> tuple:
    q_BTHE, k_BSGE, v_BSGE = arrays[:3]
    visibility = _Visibility(*arrays[3:])
    options = constants.of(constants.blocks.forward)
    schedule = _schedule(visibility, options.blocks)
    window_BWT, key_position_BS = _padded(visibility, options.blocks)
    out_BTHE, log_sum_exp_BHT = forward(
        options, q_BTHE, k_BSGE, v_BSGE, window_BWT, key_position_BS, schedule
    )
    out_BTHE, log_sum_exp_BHT = saved_results(out_BTHE, log_sum_exp_BHT)
    return out_BTHE, (*arrays, out_BTHE, log_sum_exp_BHT)


def _attention_backward(
    constants: _Constants, residuals: tuple, dout_BTHE: jax.Array
) -> tuple:
    *arrays, out_BTHE, log_sum_exp_BHT = residuals
    visibility = _Visibility(*arrays[3:])
    out, dout = (x.astype(jnp.float32) for x in (out_BTHE, dout_BTHE))
    delta_BHT = jnp.sum(out * dout, axis=-1).swapaxes(1, 2)
    log_sum_exp_BHT = log_sum_exp_BHT[..., : delta_BHT.shape[-1]]
    statistics_BHWT = jnp.stack([log_sum_exp_BHT, delta_BHT], axis=2)

    def gradient(function, blocks: Blocks, schedule: BlockSchedule):
        extra = -statistics_BHWT.shape[-1] % blocks.query
        statistics = jnp.pad(statistics_BHWT, [(0, 0)] * 3 + [(0, extra)])
        padded = _padded(visibility, blocks)
        options = constants.of(blocks)
        return function(options, *arrays[:3], dout_BTHE, statistics, *padded, schedule)

    blocks = constants.blocks.query_gradient
    dq = gradient(query_gradient, blocks, _schedule(visibility, blocks))
    blocks = constants.blocks.key_gradient
    by_key = _schedule(visibility, blocks, by_key=True)
    dk, dv = gradient(key_gradients, blocks, by_key)
    return dq, dk, dv, None, None, None


_attention.defvjp(_attention_forward, _attention_backward)


def _schedule(
    visibility: _Visibility, blocks: Blocks, *, by_key: bool = False
) -> BlockSchedule:
    pairs = block_map(*visibility, query_block=blocks.query, key_block=blocks.key)
    return block_schedule(pairs.transposed() if by_key else pairs)


def _padded(visibility: _Visibility, blocks: Blocks) -> tuple[jax.Array, jax.Array]:
    """Return windows `[B, 2, T]` and positions `[B, S]` padded to whole blocks.

    Windows become their first and last positions; no first one is negative, so that
    none contains the -1 of padding.
    """
    first_BT = jnp.maximum(visibility.window_start, 0)
    last_BT = jnp.maximum(visibility.window_end, 0) - 1
    windows = [pad_windows(x, blocks.query) for x in (first_BT, last_BT)]
    key_position_BS = pad_positions(visibility.key_position, blocks.key)
    return jnp.stack(windows, axis=1), key_position_BS


def _pad_tokens(x_BTHE: jax.Array) -> jax.Array:
    extra = -x_BTHE.shape[1] % _COPY_ROWS
    return jnp.pad(x_BTHE, ((0, 0), (0, extra), (0, 0), (0, 0)))


def _check_served(
    q_BTHE: jax.Array, dropout: AttentionDropout | None, interpret: Interpret
) -> None:
    if dropout is not None:
        raise NotImplementedError(
            f"dropout has rate {dropout.rate}, but mosaic_gpu drops nothing; use "
            "implementation 'xla_chunked', or rate 0."
        )
    device = current_device()
    if not interpret and not device.kind.startswith(HOPPER):
        raise NotImplementedError(
            f"The device is {device}, but mosaic_gpu needs the wgmma of an NVIDIA "
            "Hopper chip (H100, H200); use another implementation or interpret=True."
        )
    if str(q_BTHE.dtype) not in SERVED_DTYPES:
        raise NotImplementedError(
            f"q has dtype {q_BTHE.dtype}, but wgmma would round its products to tf32; "
            f"cast to one of {', '.join(SERVED_DTYPES)}, or use 'xla_chunked'."
        )
    head_dim = q_BTHE.shape[3]
    if head_dim % HEAD_DIM_STEP or head_dim > LARGEST_HEAD_DIM:
        raise NotImplementedError(
            f"The head dimension is {head_dim}, but mosaic_gpu serves multiples of "
            f"{HEAD_DIM_STEP} up to {LARGEST_HEAD_DIM}; pad E or use 'xla_chunked'."
        )


def _check_blocks(blocks: BlockSizes) -> None:
    owned = (blocks.forward.query, blocks.query_gradient.query, blocks.key_gradient.key)
    for sizes, num_owned in zip(blocks, owned, strict=True):
        warpgroups = sizes.warps // WARPS_PER_WARPGROUP
        if sizes.warps % WARPS_PER_WARPGROUP or warpgroups not in (1, 2):
            raise ValueError(
                f"{sizes} has {sizes.warps} warps, but they compute as one warpgroup "
                f"or two; make warps {WARPS_PER_WARPGROUP} or "
                f"{2 * WARPS_PER_WARPGROUP}."
            )
        if num_owned % (warpgroups * WGMMA_ROWS):
            raise ValueError(
                f"{sizes} gives {num_owned} tokens to {warpgroups} warpgroups, but "
                f"each owns a multiple of {WGMMA_ROWS}; change the block or its warps."
            )
