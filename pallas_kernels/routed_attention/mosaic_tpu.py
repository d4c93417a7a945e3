"""Routed attention as TPU kernels: memory linear in T + S, hidden blocks skipped.

Pairs of blocks in which no query sees a key are not visited, and those in which every
query sees every key are not masked. The backward pass recomputes the weights from the
saved log-sum-exp (FlashAttention, arXiv 2205.14135).

`mosaic_tpu_layout.py` says how arrays lie in memory, `mosaic_tpu_work.py` which pairs
of blocks are visited, `mosaic_tpu_forward.py` and `mosaic_tpu_backward.py` hold the
kernels, and `mosaic_tpu_block.py` what they share.

Legend: that of `mosaic_tpu_layout.py`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.device import current_device
from pallas_kernels.routed_attention.block_sizes import (
    Blocks,
    BlockSizes,
    block_sizes,
    shape_class,
)
from pallas_kernels.routed_attention.dropout import AttentionDropout
from pallas_kernels.routed_attention.mosaic_tpu_backward import (
    BackwardArrays,
    key_gradient,
    query_gradient,
)
from pallas_kernels.routed_attention.mosaic_tpu_forward import ForwardArrays, forward
from pallas_kernels.routed_attention.mosaic_tpu_layout import (
    Visibility,
    fitted,
    keys_by_head,
    keys_by_token,
    numbers_by_block,
    numbers_by_query,
    pad_tokens,
    queries_by_head,
    queries_by_token,
)
from pallas_kernels.routed_attention.mosaic_tpu_work import refuse_long_lists, work_list
from pallas_kernels.routed_attention.saved_results import saved_results

LARGEST_HEAD_DIM = 128


class _Constants(NamedTuple):
    """What the program is compiled for."""

    scale: float
    blocks: BlockSizes
    interpret: bool | pltpu.InterpretParams


def mosaic_tpu(
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
    interpret: bool | pltpu.InterpretParams = False,
) -> jax.Array:
    """Attend on a TPU; arguments and result as `routed_attention`, and two more.

    Supports reverse mode only (`jax.custom_vjp`).

    Args:
      q_BTHE: bfloat16 or float32; E is a multiple of 8 up to 128.
      k_BSGE: in the dtype of `q_BTHE`.
      v_BSGE: in the dtype of `q_BTHE`.
      window_start_BT: int32.
      window_end_BT: int32.
      key_position_BS: int32.
      scale: multiplies the scores.
      dropout: must be None.
      blocks: most queries (R per token) and keys per block, in multiples of 128; None
        looks them up in `block_sizes.json`.
      interpret: run on any machine, as `pl.pallas_call` does; InterpretParams simulates
        the memories of a TPU.

    Raises:
      NotImplementedError: this is not a TPU, or the kernels do not serve the case.
    """
    _refuse_what_is_not_served(q_BTHE, dropout, interpret)
    num_keys, num_kv_heads, head_dim = k_BSGE.shape[1:]
    num_queries = q_BTHE.shape[1] * (q_BTHE.shape[2] // num_kv_heads)
    if blocks is None:
        shapes = shape_class(num_queries, num_keys, head_dim, q_BTHE.dtype.itemsize)
        blocks = block_sizes("mosaic_tpu", current_device(), shapes)
    blocks = BlockSizes(*(fitted(sizes, num_queries, num_keys) for sizes in blocks))
    for sizes in blocks:
        refuse_long_lists(q_BTHE.shape[0], num_queries, num_keys, sizes)
    return _attention(
        _Constants(scale, blocks, interpret),
        q_BTHE,
        k_BSGE,
        v_BSGE,
        window_start_BT,
        window_end_BT,
        key_position_BS,
    )


def _refuse_what_is_not_served(
    q_BTHE: jax.Array, dropout: AttentionDropout | None, interpret
) -> None:
    device, head_dim = current_device(), q_BTHE.shape[3]
    if device.platform != "tpu" and not interpret:
        raise NotImplementedError(
            f"This is {device}, but mosaic_tpu compiles for TPUs; use another "
            "implementation, or interpret=True to test it."
        )
    if dropout is not None:
        raise NotImplementedError(
            f"dropout has rate {dropout.rate}, but mosaic_tpu drops no probabilities; "
            "use xla_chunked or no dropout."
        )
    if q_BTHE.dtype not in (jnp.bfloat16, jnp.float32):
        raise NotImplementedError(
            f"q has dtype {q_BTHE.dtype}, but the matrix unit of a TPU multiplies "
            "bfloat16 and float32; cast q, k and v to one of these."
        )
    if head_dim % 8 != 0 or head_dim > LARGEST_HEAD_DIM:
        raise NotImplementedError(
            f"q has head dimension {head_dim}, but mosaic_tpu serves multiples of 8 up "
            f"to {LARGEST_HEAD_DIM}; pad it with zeros or use xla_chunked."
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(constants: _Constants, *arrays: jax.Array) -> jax.Array:
    return _attention_forward(constants, *arrays)[0]


def _attention_forward(constants: _Constants, *arrays: jax.Array) -> tuple:
    q_BTHE, k_BSGE, v_BSGE, *visibility = arrays
    num_kv_heads, blocks = k_BSGE.shape[2], constants.blocks.forward
    visibility = Visibility.shared(q_BTHE.shape[2] // num_kv_heads, *visibility)
    windows, key_position = visibility.by_block(blocks)
    operands = ForwardArrays(
        windows,
        key_position,
        q=pad_tokens(queries_by_head(q_BTHE, num_kv_heads), 2, blocks.query),
        k=pad_tokens(keys_by_head(k_BSGE), 2, blocks.key),
        v=pad_tokens(keys_by_head(v_BSGE), 2, blocks.key),
    )
    out_BGTE, log_sum_exp_BGN1Q = forward(
        work_list(visibility.pairs(blocks)),
        operands,
        scale=constants.scale,
        blocks=blocks,
        interpret=constants.interpret,
    )
    out_BTHE = queries_by_token(out_BGTE, q_BTHE)
    num_queries = visibility.window_start.shape[1]
    log_sum_exp_BG1T = numbers_by_query(log_sum_exp_BGN1Q, num_queries)
    out_BTHE, log_sum_exp_BG1T = saved_results(out_BTHE, log_sum_exp_BG1T)
    return out_BTHE, (*arrays, out_BTHE, log_sum_exp_BG1T)


def _attention_backward(
    constants: _Constants, residuals: tuple, dout_BTHE: jax.Array
) -> tuple:
    q_BTHE, k_BSGE, v_BSGE, *visibility, out_BTHE, log_sum_exp_BG1T = residuals
    num_kv_heads = k_BSGE.shape[2]
    visibility = Visibility.shared(q_BTHE.shape[2] // num_kv_heads, *visibility)
    delta_BTH = jnp.einsum(
        "BTHE,BTHE->BTH", out_BTHE, dout_BTHE, preferred_element_type=jnp.float32
    )
    delta_BG1T = queries_by_head(delta_BTH[..., None], num_kv_heads).swapaxes(2, 3)
    statistics_BG2T = jnp.concatenate([log_sum_exp_BG1T, delta_BG1T], axis=2)
    q, dout = (queries_by_head(x, num_kv_heads) for x in (q_BTHE, dout_BTHE))
    k, v = keys_by_head(k_BSGE), keys_by_head(v_BSGE)

    def operands(blocks: Blocks) -> BackwardArrays:
        statistics = pad_tokens(statistics_BG2T, 3, blocks.query)
        return BackwardArrays(
            *visibility.by_block(blocks),
            q=pad_tokens(q, 2, blocks.query),
            k=pad_tokens(k, 2, blocks.key),
            v=pad_tokens(v, 2, blocks.key),
            dout=pad_tokens(dout, 2, blocks.query),
            statistics=numbers_by_block(statistics, blocks.query),
        )

    options = {"scale": constants.scale, "interpret": constants.interpret}
    blocks = constants.blocks.query_gradient
    work = work_list(visibility.pairs(blocks))
    dq = query_gradient(work, operands(blocks), blocks=blocks, **options)
    blocks = constants.blocks.key_gradient
    work = work_list(visibility.pairs(blocks).transposed())
    dk, dv = key_gradient(work, operands(blocks), blocks=blocks, **options)
    dq = queries_by_token(dq, q_BTHE)
    dk, dv = keys_by_token(dk, k_BSGE), keys_by_token(dv, v_BSGE)
    return dq, dk, dv, None, None, None


_attention.defvjp(_attention_forward, _attention_backward)
