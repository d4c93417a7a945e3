"""One attention for dense, packed, modality-major and routed tokens.

It serves both Mixture-of-Transformers (arXiv 2411.04996) and UniMoD (arXiv 2502.06474):
each query carries a window of key positions, and windows survive every reordering.
"""

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels.routed_attention.dropout import AttentionDropout
from pallas_kernels.routed_attention.reference import reference
from pallas_kernels.routed_attention.xla_chunked import xla_chunked

_IMPLEMENTATIONS = {"reference": reference, "xla_chunked": xla_chunked}

# Largest T x S for which the reference is chosen automatically. Measured 2026-11-21 on
# 2 CPU cores (float32, causal, forward and backward): reference against xla_chunked
# took 26 against 24 ms at 128 x 128, 38 against 39 at 256 x 256, 108 against 68 at
# 512 x 512 and 130 against 48 at 1024 x 1024. Of the sizes that tie, the reference gets
# those with one chunk of keys, where chunking saves no memory.
LARGEST_REFERENCE_SCORES = 128 * 128

_FLOAT_DTYPES = ("bfloat16", "float16", "float32")


def routed_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    window_start: jax.Array,
    window_end: jax.Array,
    key_position: jax.Array,
    *,
    scale: float,
    dropout: AttentionDropout | None = None,
    implementation: str | Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Attend from each query to the keys whose position lies in its window.

    A query sees key s iff `key_position[s] >= 0` and
    `window_start <= key_position[s] < window_end`; its output is the average of the
    visible values under softmax(scale * q . k), computed in float32. A query that sees
    nothing gets a zero output and gives zero gradients. Keys may come in any order.

    Args:
        q: `[B, T, H, E]` bfloat16, float16 or float32.
        k: `[B, S, G, E]` in the dtype of `q`; G divides H, and query head h reads
            key/value head `h // (H // G)`.
        v: `[B, S, G, E]` in the dtype of `q`.
        window_start: `[B, T]` int32, first visible position.
        window_end: `[B, T]` int32, one past the last visible position.
        key_position: `[B, S]` int32, -1 for padding.
        scale: a Python number that multiplies the scores, usually `E ** -0.5`.
        dropout: which probabilities to drop after the softmax, as torch does; the
            others grow by 1 / (1 - rate). None or rate 0 compile to no dropout.
        implementation: "reference" (the definition, T x S memory), "xla_chunked"
            (memory linear in T + S, reverse mode only), or None to choose by T x S; or
            a function with the signature of `reference`, as an interpreted or
            differently cut kernel.

    Returns:
        `[B, T, H, E]` in the dtype of `q`.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
        NotImplementedError: the implementation, or with None every one, cannot serve
            this case.
    """
    _check_arrays(q, k, v, window_start, window_end, key_position)
    _check_options(scale, implementation)
    if dropout is not None:
        _check_dropout(dropout, q.shape[:2])
        dropout = dropout if dropout.rate > 0 else None
    arguments = (q, k, v, window_start, window_end, key_position)
    options = {"scale": float(scale), "dropout": dropout}
    if implementation is None:
        return _first_that_serves(arguments, options)
    if isinstance(implementation, str):
        implementation = _IMPLEMENTATIONS[implementation]
    return implementation(*arguments, **options)


def _first_that_serves(arguments: tuple[jax.Array, ...], options: dict) -> jax.Array:
    q, k = arguments[:2]
    refusals = []
    for name in _automatic_order(q.shape[1] * k.shape[1]):
        try:
            return _IMPLEMENTATIONS[name](*arguments, **options)
        except NotImplementedError as refusal:
            refusals.append(f"{name}: {refusal}")
    raise NotImplementedError(
        f"No implementation of routed_attention serves this case: {' '.join(refusals)}"
    )


def _automatic_order(num_scores: int) -> tuple[str, ...]:
    if num_scores <= LARGEST_REFERENCE_SCORES:
        return ("reference", "xla_chunked")
    return ("xla_chunked", "reference")


def _check_arrays(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    window_start: jax.Array,
    window_end: jax.Array,
    key_position: jax.Array,
) -> None:
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


def _check_options(
    scale: float, implementation: str | Callable[..., jax.Array] | None
) -> None:
    if not isinstance(scale, numbers.Real) or not math.isfinite(scale):
        raise ValueError(
            f"scale is {scale!r}, but it is a constant of the compiled program; pass a "
            "finite Python number such as E ** -0.5."
        )
    if isinstance(implementation, str) and implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation is {implementation!r}, which does not exist; use None or "
            f"one of {', '.join(_IMPLEMENTATIONS)}."
        )


def _check_dropout(dropout: AttentionDropout, window_shape: tuple[int, ...]) -> None:
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
