"""Attention as a program of one shape, and what its compiled text tells about it."""

import importlib
import math
import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from pallas_kernels import routed_attention
from pallas_kernels.routed_attention.shapes import AttentionShape

KERNEL_CALL = {
    "mosaic_tpu": "tpu_custom_call",
    "triton": "__gpu$xla.gpu.triton",
    "mosaic_gpu": "mosaic_gpu_v2",
}
"""Backend -> the target of its custom calls in compiled text."""


def backend(name: str) -> Callable[..., jax.Array]:
    """The function of that name in the file of that name."""
    module = importlib.import_module(f"pallas_kernels.routed_attention.{name}")
    return getattr(module, name)


def arguments(
    shape: AttentionShape, dtype: str = "bfloat16"
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """q, k, v, windows, key positions and the output's cotangent, without values."""
    rows, head_dim = shape.rows, shape.head_dim
    query = jax.ShapeDtypeStruct((rows, shape.queries, shape.heads, head_dim), dtype)
    key = jax.ShapeDtypeStruct((rows, shape.keys, shape.kv_heads, head_dim), dtype)
    window = jax.ShapeDtypeStruct((rows, shape.queries), jnp.int32)
    position = jax.ShapeDtypeStruct((rows, shape.keys), jnp.int32)
    return query, key, key, window, window, position, query


def inference(implementation: str | Callable) -> Callable[..., jax.Array]:
    """The output alone, as a function of `arguments`."""

    def attend(q, k, v, start, end, position, dout):
        del dout
        return routed_attention(
            q,
            k,
            v,
            start,
            end,
            position,
            scale=q.shape[-1] ** -0.5,
            implementation=implementation,
        )

    return attend


def training(implementation: str | Callable) -> Callable[..., tuple[jax.Array, ...]]:
    """The output and the gradients of q, k and v, as a function of `arguments`."""
    attend = inference(implementation)

    def attend_and_differentiate(q, k, v, *others):
        out, pull_back = jax.vjp(lambda *qkv: attend(*qkv, *others), q, k, v)
        return out, *pull_back(others[-1])

    return attend_and_differentiate


def kernel_calls(text: str, name: str) -> int:
    """How many custom calls of a backend a compiled program makes."""
    return text.count(f'custom_call_target="{KERNEL_CALL[name]}"')


def array_sizes(text: str) -> Iterator[int]:
    """How many numbers each array of a compiled program has."""
    for _, axes in re.findall(r"\b(pred|bf16|[fsu]\d+)\[([\d,]+)\]", text):
        yield math.prod(int(size) for size in axes.split(","))


def linear_bytes(shape: AttentionShape) -> int:
    """float32 bytes of q, k and v with whole blocks of tokens and whole lanes.

    Blocks have up to 512 tokens, lanes are 128: both the most that a backend pads to.
    """
    queries, keys = (512 * -(-size // 512) for size in (shape.queries, shape.keys))
    heads_tokens = shape.heads * queries + 2 * shape.kv_heads * keys
    return 4 * shape.rows * heads_tokens * max(shape.head_dim, 128)
