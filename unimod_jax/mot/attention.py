"""Global attention over streams: queries of every modality see keys of every modality.

The projections are untied; the softmax is one (2411.04996, equations 1-3). Streams are
joined along the token axis only here, and the order they are joined in does not matter:
what a token sees is decided by positions and windows.
"""

import jax
import jax.numpy as jnp

from pallas_kernels import routed_attention
from unimod_jax.layout import AttentionGeometry, apply_rotary
from unimod_jax.mot.towers import Streams


def join(arrays: dict[str, jax.Array]) -> jax.Array:
    """Concatenates streams along the token axis, in dictionary order."""
    parts = list(arrays.values())
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def split_like(joined: jax.Array, streams: dict[str, jax.Array]) -> Streams:
    """Cuts a joined array back into streams as long as the given ones."""
    pieces, start = {}, 0
    for name, stream in streams.items():
        pieces[name] = joined[:, start : start + stream.shape[1]]
        start += stream.shape[1]
    return pieces


def join_geometry(geometry: dict[str, AttentionGeometry]) -> AttentionGeometry:
    """Concatenates the streams' positions, windows and phases in the same order."""
    parts = list(geometry.values())
    if len(parts) == 1:
        return parts[0]
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=1), *parts)


def global_attention(
    query: Streams,
    key: Streams,
    value: Streams,
    geometry: dict[str, AttentionGeometry],
) -> Streams:
    """Softmax attention of all streams over all streams.

    Args:
      query: stream -> [B, T, H, E].
      key, value: stream -> [B, T, G, E], G dividing H.
      geometry: stream -> positions, windows and rotary phases of its tokens.

    Returns:
      stream -> [B, T, H, E].
    """
    # One order for all: dictionaries come sorted out of jit and as written without it.
    key = {name: key[name] for name in query}
    value = {name: value[name] for name in query}
    geometry = {name: geometry[name] for name in query}
    where = join_geometry(geometry)
    q_BTHE = apply_rotary(join(query), where.phase_BT2R)
    k_BTGE = apply_rotary(join(key), where.phase_BT2R)
    attended_BTHE = routed_attention(
        q_BTHE,
        k_BTGE,
        join(value),
        where.window_start_BT,
        where.window_end_BT,
        where.position_BT,
        scale=q_BTHE.shape[-1] ** -0.5,
    )
    return split_like(attended_BTHE, query)
