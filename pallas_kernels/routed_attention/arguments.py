"""What `routed_attention` accepts, and the one sentence for what it does not."""

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels.routed_attention.dropout import AttentionDropout
from pallas_kernels.routed_attention.implementations import NAMES

_FLOAT_DTYPES = ("bfloat16", "float16", "float32")


def check_arrays(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    window_start: jax.Array,
    window_end: jax.Array,
    key_position: jax.Array,
) -> None:
    """Raise ValueError unless shapes and dtypes fit together."""
    if q.ndim != 4 or k.ndim != 4:
        raise ValueError(
            f"q has shape {q.shape} and k {k.shape}, but heads and rows are explicit "
            "axes; pass q as [B, T, H, E] and k as [B, S, G, E]."
        )
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(
            f"q has shape {q.shape} and k {k.shape}, but there is no softmax over an "
            "empty axis; skip the call or pad with key_position -1."
        )
    num_rows, num_queries, num_heads, head_dim = q.shape
    num_keys, num_kv_heads = k.shape[1:3]
    if num_heads % num_kv_heads != 0:
        raise ValueError(
            f"q has {num_heads} heads and k has {num_kv_heads}, but query heads share "
            "key/value heads evenly; make G divide H."
        )
    if str(q.dtype) not in _FLOAT_DTYPES:
        raise ValueError(
            f"q has dtype {q.dtype}, but scores accumulate in float32; cast q, k and v "
            f"to one of {', '.join(_FLOAT_DTYPES)}."
        )
    kv_shape = (num_rows, num_keys, num_kv_heads, head_dim)
    window_shape = (num_rows, num_queries)
    int32 = jnp.dtype("int32")
    _check("k", k, kv_shape, "[B, S, G, E]", q.dtype)
    _check("v", v, kv_shape, "[B, S, G, E]", q.dtype)
    _check("window_start", window_start, window_shape, "[B, T]", int32)
    _check("window_end", window_end, window_shape, "[B, T]", int32)
    _check("key_position", key_position, (num_rows, num_keys), "[B, S]", int32)


def check_options(
    scale: float, implementation: str | Callable[..., jax.Array] | None
) -> None:
    """Raise ValueError unless scale and implementation are known to the compiler."""
    if not isinstance(scale, numbers.Real) or not math.isfinite(scale):
        raise ValueError(
            f"scale is {scale!r}, but it is a constant of the compiled program; pass a "
            "finite Python number such as E ** -0.5."
        )
    if isinstance(implementation, str) and implementation not in NAMES:
        raise ValueError(
            f"implementation is {implementation!r}, which does not exist; use None or "
            f"one of {', '.join(NAMES)}."
        )


def check_dropout(dropout: AttentionDropout, window_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the dropout fits `[B, T]` windows."""
    if not isinstance(dropout, AttentionDropout):
        raise ValueError(
            f"dropout is {dropout!r}, but a mask needs a seed and query positions "
            "beside its rate; pass an AttentionDropout or None."
        )
    rate = dropout.rate
    if not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
        raise ValueError(
            f"dropout.rate is {rate!r}, but kept probabilities grow by 1 / (1 - rate) "
            "in the compiled program; pass a Python number in [0, 1)."
        )
    seed_shape = getattr(dropout.seed, "shape", ())
    seed_dtype = getattr(dropout.seed, "dtype", type(dropout.seed).__name__)
    if seed_shape != () or str(seed_dtype) != "uint32":
        raise ValueError(
            f"dropout.seed has shape {seed_shape} and dtype {seed_dtype}, but the mask "
            "is a hash of one 32-bit number; pass a uint32 scalar such as "
            "jax.random.bits(key, (), jnp.uint32)."
        )
    position, int32 = dropout.query_position, jnp.dtype("int32")
    _check("dropout.query_position", position, window_shape, "[B, T]", int32)


def _check(
    name: str, array: jax.Array, shape: tuple[int, ...], axes: str, dtype: jnp.dtype
) -> None:
    if array.shape != shape:
        raise ValueError(
            f"{name} has shape {array.shape}, but q and k make {axes} {shape}; "
            f"reshape {name} or correct q and k."
        )
    if array.dtype != dtype:
        raise ValueError(
            f"{name} has dtype {array.dtype}, but nothing is promoted silently; "
            f"cast it to {dtype}."
        )
