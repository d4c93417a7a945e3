"""One attention for dense, packed, modality-major and routed tokens.

It serves both Mixture-of-Transformers (arXiv 2411.04996) and UniMoD (arXiv 2502.06474):
each query carries a window of key positions, and windows survive every reordering.
"""

from collections.abc import Callable

import jax

from pallas_kernels.device import current_device
from pallas_kernels.routed_attention.arguments import (
    check_arrays,
    check_dropout,
    check_options,
)
from pallas_kernels.routed_attention.dropout import AttentionDropout
from pallas_kernels.routed_attention.implementations import fastest_first, load
from pallas_kernels.routed_attention.sharded import per_shard


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
            (memory linear in T + S, any chip), a kernel: "mosaic_tpu", "mosaic_gpu"
            (Hopper), "triton" (Ampere and later), or None for the fastest that serves
            this case on the chip traced for; or a function with the signature of
            `reference`, as an interpreted or differently cut kernel. All but the
            reference are differentiable in reverse mode only.

    Under a mesh (`jax.set_mesh`) rows are split over its axes "data" and "fsdp",
    queries over "sequence", heads over "tensor"; see `sharded.per_shard`.

    Returns:
        `[B, T, H, E]` in the dtype of `q`.

    Raises:
        ValueError: an argument has a wrong shape, dtype or value.
        NotImplementedError: the implementation, or with None every one, cannot serve
            this case.
    """
    check_arrays(q, k, v, window_start, window_end, key_position)
    check_options(scale, implementation)
    if dropout is not None:
        check_dropout(dropout, q.shape[:2])
        dropout = dropout if dropout.rate > 0 else None
    if implementation is None:
        implementation = _first_that_serves
    elif isinstance(implementation, str):
        implementation = load(implementation)
    arrays = (q, k, v, window_start, window_end, key_position)
    options = {"scale": float(scale), "dropout": dropout}
    return per_shard(implementation, arrays, options)


def _first_that_serves(*arrays: jax.Array, **options) -> jax.Array:
    q, k = arrays[:2]
    refusals = []
    for name in fastest_first(current_device(), q.shape[1] * k.shape[1]):
        try:
            return load(name)(*arrays, **options)
        except NotImplementedError as refusal:
            refusals.append(f"{name}: {refusal}")
    raise NotImplementedError(
        f"No implementation of routed_attention serves this case: {' '.join(refusals)}"
    )
