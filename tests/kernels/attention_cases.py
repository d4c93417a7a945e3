"""Cases of routed attention, their exact answer, and how to run an implementation.

The oracle is dense NumPy in float64 with the closed-form gradient of softmax attention.

Legend: B rows, T query tokens, S key tokens, H query heads, G key/value heads, E head
dimension.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import AttentionDropout, routed_attention


class Visibility(NamedTuple):
    """Windows [B, T] and key positions [B, S], int32."""

    window_start: np.ndarray
    window_end: np.ndarray
    key_position: np.ndarray


class Case(NamedTuple):
    """Arrays q, k, v and the cotangent of the output, with who sees whom."""

    q_BTHE: np.ndarray
    k_BSGE: np.ndarray
    v_BSGE: np.ndarray
    dout_BTHE: np.ndarray
    visibility: Visibility
    scale: float


def random_visibility(seed, num_rows, num_queries, num_keys) -> Visibility:
    """Draw windows of any length, some reversed, over keys in shuffled order."""
    rng = np.random.default_rng(seed)
    positions = [rng.permutation(num_keys) for _ in range(num_rows)]
    start, end = rng.integers(0, num_keys + 1, (2, num_rows, num_queries))
    whole_row = np.arange(num_queries) % 3 == 0
    start, end = np.where(whole_row, 0, start), np.where(whole_row, num_keys, end)
    return Visibility(*(np.asarray(x, np.int32) for x in (start, end, positions)))


def packed_documents(lengths, image_spans) -> Visibility:
    """Pack causal documents in one row; inside an image span all tokens see its end."""
    position = np.arange(sum(lengths))
    start = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    end = position + 1
    for first, last in image_spans:
        end[first:last] = last
    return Visibility(*(np.asarray(x[None], np.int32) for x in (start, end, position)))


def random_case(
    seed, visibility, *, heads=2, kv_heads=2, head_dim=8, dtype="float32"
) -> Case:
    """Draw normal q, k, v and cotangent around a visibility."""
    rng = np.random.default_rng(seed)
    num_rows, num_queries = visibility.window_start.shape
    num_keys = visibility.key_position.shape[1]

    def normal(num_tokens, num_heads):
        shape = (num_rows, num_tokens, num_heads, head_dim)
        return rng.normal(size=shape).astype(jnp.dtype(dtype))

    q, dout = normal(num_queries, heads), normal(num_queries, heads)
    k, v = normal(num_keys, kv_heads), normal(num_keys, kv_heads)
    return Case(q, k, v, dout, visibility, head_dim**-0.5)


def absorb(state: int, number: int) -> int:
    """Take one step of SplitMix with the 32-bit finaliser of MurmurHash3."""
    z = (state + (number + 1) * 0x9E3779B9) % 2**32
    z = (z ^ (z >> 16)) * 0x85EBCA6B % 2**32
    z = (z ^ (z >> 13)) * 0xC2B2AE35 % 2**32
    return z ^ (z >> 16)


def kept_by_hash(seed, rate, query_position, key_position, num_heads) -> np.ndarray:
    """Return which probabilities [B, H, T, S] dropout keeps, one by one."""
    num_rows, num_queries = query_position.shape
    kept = np.zeros((num_rows, num_heads, num_queries, key_position.shape[1]), bool)
    for row, head, query in np.ndindex(kept.shape[:3]):
        code = 0
        for number in (int(seed), row, head, int(query_position[row, query])):
            code = absorb(code, number)
        kept[row, head, query] = [
            absorb(code, position) >= int(rate * 2**32)
            for position in key_position[row].tolist()
        ]
    return kept


def oracle(
    case: Case, dropout: AttentionDropout | None = None
) -> tuple[np.ndarray, ...]:
    """Return out, dq, dk and dv in float64, from dense matrices."""
    q, k, v, dout = (np.asarray(x, np.float64) for x in case[:4])
    start, end, position = (np.asarray(x, np.int64) for x in case.visibility)
    repeats = q.shape[2] // k.shape[2]
    k_BSHE, v_BSHE = np.repeat(k, repeats, axis=2), np.repeat(v, repeats, axis=2)
    position_BS1 = position[:, None, :]
    visible = (position_BS1 >= 0) & (position_BS1 < end[..., None])
    visible &= start[..., None] <= position_BS1

    score = np.einsum("bthe,bshe->bhts", q, k_BSHE) * case.scale
    score = np.where(visible[:, None], score, -np.inf)
    peak = np.max(score, axis=-1, keepdims=True)
    weight = np.exp(score - np.where(np.isfinite(peak), peak, 0.0))
    weight /= np.maximum(weight.sum(axis=-1, keepdims=True), 1e-300)
    factor = np.ones_like(weight)
    if dropout is not None:
        seed, query_position = (
            np.asarray(x) for x in (dropout.seed, dropout.query_position)
        )
        kept = kept_by_hash(seed, dropout.rate, query_position, position, q.shape[2])
        factor = kept / (1.0 - dropout.rate)
    out = np.einsum("bhts,bshe->bthe", weight * factor, v_BSHE)

    dweight = factor * np.einsum("bthe,bshe->bhts", dout, v_BSHE)
    mean = np.sum(weight * dweight, axis=-1, keepdims=True)
    dscore = weight * (dweight - mean) * case.scale
    dq = np.einsum("bhts,bshe->bthe", dscore, k_BSHE)
    dk = np.einsum("bhts,bthe->bshe", dscore, q)
    dv = np.einsum("bhts,bthe->bshe", weight * factor, dout)
    dk, dv = (x.reshape(*k.shape[:3], repeats, -1).sum(axis=3) for x in (dk, dv))
    return out, dq, dk, dv


def unchanged(function: Callable) -> Callable:
    """Return the function itself: the default transform of `run`."""
    return function


@functools.partial(jax.jit, static_argnames=("scale", "implementation", "transform"))
def value_and_gradients(
    q,
    k,
    v,
    dout,
    visibility,
    dropout=None,
    *,
    scale,
    implementation,
    transform=unchanged,
) -> tuple[jax.Array, ...]:
    """Return out, dq, dk and dv; cases of equal shape share one compilation."""

    @transform
    def attend(q, k, v):
        return routed_attention(
            q,
            k,
            v,
            *visibility,
            scale=scale,
            dropout=dropout,
            implementation=implementation,
        )

    out, pull_back = jax.vjp(attend, q, k, v)
    return out, *pull_back(dout)


def run(
    case: Case, implementation: str | Callable, transform=unchanged, dropout=None
) -> tuple[jax.Array, ...]:
    """Return out, dq, dk and dv of an implementation under jit."""
    *arrays, scale = case
    return value_and_gradients(
        *arrays,
        dropout,
        scale=scale,
        implementation=implementation,
        transform=transform,
    )


def random_dropout(seed, visibility, rate) -> AttentionDropout:
    """Draw a seed and distinct query positions that are not their indices."""
    rng = np.random.default_rng(seed)
    num_rows, num_queries = visibility.window_start.shape
    position = [rng.permutation(2 * num_queries)[:num_queries] for _ in range(num_rows)]
    return AttentionDropout(
        jnp.uint32(rng.integers(2**32)), jnp.asarray(position, jnp.int32), rate
    )
