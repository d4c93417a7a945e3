"""Dropout of attention probabilities, decided by a hash instead of a random stream.

Whether a probability is kept is a function of (seed, row, query head, query position,
key position) alone. So every implementation drops the same ones, in whatever blocks it
visits them; a token keeps its mask when a router gathers it or a modality regroups it;
and the backward pass recomputes the mask instead of storing T x S bits.

The hash takes one step of SplitMix (Steele, Lea and Flood, OOPSLA 2014) in 32 bits per
number: add the number times the golden gamma, then mix. Four steps make the code of a
query, a fifth decides about one key. That is enough for dropout and for nothing finer:
among 2^32 states, a few masks of a large batch coincide.

Legend: B rows, T query tokens, S key tokens, H query heads.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

# 2^32 over the golden ratio, made odd: the increment of SplitMix.
GOLDEN_GAMMA = 0x9E3779B9

# The finaliser of MurmurHash3 for 32 bits (Appleby, public domain): xor with the right
# shift, multiply, twice, then xor once more.
_MIX_ROUNDS = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))
_LAST_SHIFT = 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionDropout:
    """Which attention probabilities to drop; the others grow by 1 / (1 - rate).

    The row is the index along B of the call, so calls that must not share a mask
    (layers, groups of rows) need different seeds.

    Attributes:
      seed: uint32 scalar, new at every step; `jax.random.bits(key, (), jnp.uint32)`.
      query_position: `[B, T]` int32, tells the queries of a row apart as `key_position`
        does its keys: tokens of a row that share a position share a mask.
      rate: the share to drop, a Python number in [0, 1), static under jit.
      first_row: int32 scalar, the index of the call's first row in the whole batch;
        where a mesh splits it, `routed_attention` says so itself.
      first_head: int32 scalar, the same of the heads.
    """

    seed: jax.Array
    query_position: jax.Array
    rate: float = dataclasses.field(metadata={"static": True})
    first_row: jax.Array | int = 0
    first_head: jax.Array | int = 0


def query_codes(dropout: AttentionDropout, num_heads: int) -> jax.Array:
    """Return `code_BHT`, uint32: the hash of seed, row, head and query position."""
    num_rows = dropout.query_position.shape[0]
    row_B11 = _counted(dropout.first_row, num_rows)[:, None, None]
    head_1H1 = _counted(dropout.first_head, num_heads)[None, :, None]
    position_B1T = dropout.query_position[:, None]
    code = _absorb(jnp.zeros((1, 1, 1), jnp.uint32), dropout.seed)
    for number in (row_B11, head_1H1, position_B1T):
        code = _absorb(code, number)
    return code


def dropping(
    code: jax.Array, key_position_BS: jax.Array, rate: float
) -> Callable[[jax.Array], jax.Array]:
    """Return the linear map that drops probabilities and scales up those it keeps.

    It multiplies entry by entry, so it is its own transpose: the backward pass applies
    the same map to the gradient of the dropped probabilities.

    Args:
      code: `[B, ..., T]` uint32 from `query_codes`, heads anywhere between B and T.
      key_position_BS: `[B, S]` int32.
      rate: the share to drop, in [0, 1).

    Returns:
      A function from float32 `[B, ..., T, S]` to the same shape and dtype.
    """
    key_position = jnp.expand_dims(key_position_BS, range(1, code.ndim))
    # The hash is uniform on 32 bits, and rate * 2^32 is exact and below 2^32.
    kept = _absorb(code[..., None], key_position) >= jnp.uint32(int(rate * 2**32))
    factor = jnp.where(kept, jnp.float32(1.0 / (1.0 - rate)), jnp.float32(0.0))
    return lambda probability: probability * factor


def _counted(first: jax.Array | int, length: int) -> jax.Array:
    return jnp.asarray(first).astype(jnp.uint32) + jnp.arange(length, dtype=jnp.uint32)


def _absorb(state: jax.Array, number: jax.Array) -> jax.Array:
    """Hash a number (an integer, taken modulo 2^32) into a uint32 state."""
    gamma = jnp.uint32(GOLDEN_GAMMA)
    state = state + (number.astype(jnp.uint32) + jnp.uint32(1)) * gamma
    for shift, factor in _MIX_ROUNDS:
        state = (state ^ (state >> jnp.uint32(shift))) * jnp.uint32(factor)
    return state ^ (state >> jnp.uint32(_LAST_SHIFT))
