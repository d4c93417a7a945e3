"""Global attention over streams: queries of every modality see keys of every modality.

The projections are untied; the softmax is one (2411.04996, equations 1-3). Streams are
joined along the token axis only here, and the order of tokens does not matter: what one
sees is decided by positions and windows. It matters to how many blocks a kernel visits,
so where the layout says so, queries and keys are read in sequence order.
"""

import jax
import jax.numpy as jnp

from pallas_kernels import AttentionDropout, routed_attention
from pallas_kernels.routed_attention.reference import INVISIBLE_SCORE, visible_keys
from pallas_kernels.routed_attention.saved_results import ATTENTION_RESULT
from unimod_jax.layout import (
    AttentionGeometry,
    SequenceOrder,
    apply_rotary,
    join_order,
)
from unimod_jax.mot.kv_cache import Keys
from unimod_jax.mot.towers import Streams
from unimod_jax.parallel import num_parts

__all__ = [
    "ATTENTION_RESULT",
    "Geometry",
    "global_attention",
    "join",
    "join_geometry",
    "join_keys",
    "received_attention",
    "split_like",
    "token_shares",
    "turned",
]

type Geometry = dict[str, AttentionGeometry]


def join(arrays: Streams, shares: int = 1) -> jax.Array:
    """Concatenates streams along the token axis, by `join_order`.

    Args:
      arrays: stream -> [B, T, ...].
      shares: dividing every T. The first shares of all streams come first, then the
        second ones: joining moves nothing between devices that have a share each.
    """
    parts = [arrays[name] for name in join_order(arrays)]
    if len(parts) == 1:
        return parts[0]
    if shares == 1:
        return jnp.concatenate(parts, axis=1)
    split = [x.reshape(x.shape[0], shares, -1, *x.shape[2:]) for x in parts]
    joined = jnp.concatenate(split, axis=2)
    return joined.reshape(joined.shape[0], -1, *joined.shape[3:])


def split_like(joined: jax.Array, streams: Streams, shares: int = 1) -> Streams:
    """Cuts an array joined in shares back into streams as long as the given ones."""
    by_share = joined.reshape(joined.shape[0], shares, -1, *joined.shape[2:])
    pieces, start = {}, 0
    for name in join_order(streams):
        length = streams[name].shape[1]
        end = start + length // shares
        piece = by_share[:, :, start:end]
        pieces[name] = piece.reshape(joined.shape[0], length, *joined.shape[2:])
        start = end
    return pieces


def token_shares(streams: Streams) -> int:
    """Into how many parts the mesh in context cuts the tokens of each stream.

    1 unless it cuts all of them, stream -> [B, T, ...].
    """
    shares = {num_parts("token", x.shape[1]) for x in streams.values()}
    return shares.pop() if len(shares) == 1 else 1


def join_geometry(geometry: Geometry, shares: int = 1) -> AttentionGeometry:
    """Concatenates the streams' positions, windows and phases, as `join` does."""
    names = join_order(geometry)
    return jax.tree.map(
        lambda *arrays: join(dict(zip(names, arrays, strict=True)), shares),
        *(geometry[name] for name in names),
    )


def turned(heads: Streams, geometry: Geometry) -> Streams:
    """Queries or keys, stream -> [B, T, heads, E], rotated by their positions."""
    return {
        name: apply_rotary(x, geometry[name].phase_BT2R) for name, x in heads.items()
    }


def join_keys(
    key: Streams, value: Streams, geometry: Geometry, shares: int = 1
) -> Keys:
    """The keys of one pass: rotated keys and values, stream -> [B, T, G, E]."""
    position = {name: geometry[name].position_BT for name in key}
    return Keys(join(key, shares), join(value, shares), join(position, shares))


def global_attention(
    query: Streams,
    keys: Keys,
    geometry: Geometry,
    *,
    order: SequenceOrder | None = None,
    shares: int = 1,
    dropout_rate: float = 0.0,
    dropout_seed: jax.Array | None = None,
) -> Streams:
    """Softmax attention of the queries of all streams over all keys.

    Args:
      query: stream -> [B, T, H, E], rotated.
      keys: of all streams, from `join_keys` or a cache; G dividing H.
      geometry: stream -> positions and windows of the queries.
      order: of these tokens, to read queries and keys in; the keys are theirs, from
        `join_keys`. None reads them as they come.
      shares: to join the queries in, where there is no order; see `join`.
      dropout_rate: share of the attention probabilities to drop.
      dropout_seed: uint32 scalar; None drops nothing.

    Returns:
      stream -> [B, T, H, E].
    """
    where, q_BTHE = join_geometry(geometry, shares), join(query, shares)
    if order is not None:
        where = jax.tree.map(order.to_sequence, where)
        q_BTHE, keys = jax.tree.map(order.to_sequence, (q_BTHE, keys))
    dropout = None
    if dropout_seed is not None:
        dropout = AttentionDropout(dropout_seed, where.position_BT, dropout_rate)
    attended_BTHE = routed_attention(
        q_BTHE,
        keys.key_BSGE.astype(q_BTHE.dtype),
        keys.value_BSGE.astype(q_BTHE.dtype),
        where.window_start_BT,
        where.window_end_BT,
        keys.position_BS,
        scale=q_BTHE.shape[-1] ** -0.5,
        dropout=dropout,
    )
    if order is not None:
        attended_BTHE = order.to_storage(attended_BTHE)
    return split_like(attended_BTHE, query, shares)


def received_attention(query: Streams, key: Streams, geometry: Geometry) -> Streams:
    """How much attention each token receives (2502.06474, analysis A).

    The score of a token is the mean, over heads and over the queries that may see it,
    of the probability they give it. Computed with plain T x S matrices, for analyses
    and as a routing baseline.

    Args:
      query: stream -> [B, T, H, E], rotated.
      key: stream -> [B, T, G, E], rotated; G dividing H.
      geometry: stream -> positions and windows.

    Returns:
      stream -> float32 [B, T]; zero in empty slots, which nobody sees.
    """
    where, q_BTHE = join_geometry(geometry), join(query)
    k_BSGE = join(key).astype(jnp.float32)
    B, T, _, E = q_BTHE.shape
    visible_BTS = visible_keys(
        where.window_start_BT, where.window_end_BT, where.position_BT
    )
    visible_B11TS = visible_BTS[:, None, None]
    # H = G x Q: each key head serves Q query heads in a row.
    q_BTGQE = q_BTHE.reshape(B, T, k_BSGE.shape[2], -1, E).astype(jnp.float32)
    score_BGQTS = jnp.einsum("BTGQE,BSGE->BGQTS", q_BTGQE, k_BSGE) * E**-0.5
    score_BGQTS = jnp.where(visible_B11TS, score_BGQTS, INVISIBLE_SCORE)
    weight_BGQTS = jnp.where(visible_B11TS, jax.nn.softmax(score_BGQTS, axis=-1), 0.0)
    total_BS = jnp.sum(jnp.mean(weight_BGQTS, axis=(1, 2)), axis=1)
    seen_by_BS = jnp.sum(visible_BTS, axis=1, dtype=jnp.float32)
    return split_like(total_BS / jnp.maximum(seen_by_BS, 1.0), query)
