"""The definition of routed attention: softmax over the keys a window makes visible.

Visibility is an interval in position space, so it stays true when tokens are dropped
by a router (UniMoD, arXiv 2502.06474), regrouped by modality (Mixture-of-Transformers,
arXiv 2411.04996), packed, or read from a cache.

Legend: B rows, T query tokens, S key tokens, H query heads, G key/value heads,
R = H // G query heads per key/value head, E head dimension.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.routed_attention.dropout import (
    AttentionDropout,
    dropping,
    query_codes,
)

# The score of an invisible key: finite, so that a row of them has a finite softmax.
INVISIBLE_SCORE = float(jnp.finfo(jnp.float32).min)


def visible_keys(
    window_start_BT: jax.Array, window_end_BT: jax.Array, key_position_BS: jax.Array
) -> jax.Array:
    """Return `visible_BTS`: which keys each query sees (bool; inputs are int32)."""
    position_B1S = key_position_BS[:, None, :]
    inside = window_start_BT[..., None] <= position_B1S
    inside &= position_B1S < window_end_BT[..., None]
    return inside & (position_B1S >= 0)


def reference(
    q_BTHE: jax.Array,
    k_BSGE: jax.Array,
    v_BSGE: jax.Array,
    window_start_BT: jax.Array,
    window_end_BT: jax.Array,
    key_position_BS: jax.Array,
    *,
    scale: float,
    dropout: AttentionDropout | None = None,
) -> jax.Array:
    """Attend with a full T x S matrix; arguments and result as `routed_attention`."""
    num_rows, num_queries, num_heads, head_dim = q_BTHE.shape
    num_kv_heads = k_BSGE.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (q_BTHE, k_BSGE, v_BSGE))
    q_BTGRE = q.reshape(num_rows, num_queries, num_kv_heads, -1, head_dim)
    visible = visible_keys(window_start_BT, window_end_BT, key_position_BS)
    visible_B11TS = visible[:, None, None]

    score_BGRTS = jnp.einsum("BTGRE,BSGE->BGRTS", q_BTGRE, k) * scale
    score_BGRTS = jnp.where(visible_B11TS, score_BGRTS, INVISIBLE_SCORE)
    weight_BGRTS = jax.nn.softmax(score_BGRTS, axis=-1)
    # An empty window leaves a uniform row; zeroing it here also zeroes its gradient.
    weight_BGRTS = jnp.where(visible_B11TS, weight_BGRTS, 0.0)
    if dropout is not None:
        code_BHT = query_codes(dropout, num_heads)
        code_BGRT = code_BHT.reshape(num_rows, num_kv_heads, -1, num_queries)
        weight_BGRTS = dropping(code_BGRT, key_position_BS, dropout.rate)(weight_BGRTS)
    out_BTGRE = jnp.einsum("BGRTS,BSGE->BTGRE", weight_BGRTS, v)
    return out_BTGRE.reshape(q_BTHE.shape).astype(q_BTHE.dtype)
