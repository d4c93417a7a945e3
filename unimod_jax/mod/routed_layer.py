"""A routed layer: gather the kept tokens, run the block on them, put its delta back.

x <- x + weight * delta for kept tokens, x unchanged for skipped ones (2502.06474,
equation 4). The weight multiplies the delta only, never the residual. Kept tokens carry
their original positions and windows, so attention among them needs nothing else.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unimod_jax.layout import AttentionGeometry
from unimod_jax.mod.selection import Selection

type _Streams = dict[str, jax.Array]
type Block = Callable[[_Streams, dict[str, AttentionGeometry]], _Streams]


@jax.custom_vjp
def move_rows(x_BTD: jax.Array, index_BC: jax.Array, inverse_BT: jax.Array):
    """Reads x[b, index[b, c]], zeros where the index is past the end.

    `inverse_BT` is the inverse map (the place each token is read from, or past the
    end), so the gradient is a gather too, never a scatter.

    Args:
      x_BTD: [B, T, D].
      index_BC: int32 [B, C].
      inverse_BT: int32 [B, T].

    Returns:
      [B, C, D].
    """
    del inverse_BT
    return _take(x_BTD, index_BC, 0)


def _move_rows_forward(x_BTD, index_BC, inverse_BT):
    return _take(x_BTD, index_BC, 0), inverse_BT


def _move_rows_backward(inverse_BT, gradient_BCD):
    return _take(gradient_BCD, inverse_BT, 0), None, None


move_rows.defvjp(_move_rows_forward, _move_rows_backward)


def _take(x: jax.Array, index_BC: jax.Array, fill: float) -> jax.Array:
    """x[b, index[b, c], ...], `fill` where the index is past the end."""
    index = index_BC.reshape(index_BC.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1, mode="fill", fill_value=fill)


def kept_geometry(
    geometry: AttentionGeometry, selection: Selection
) -> AttentionGeometry:
    """Positions, windows, phases of the kept tokens; unused places are empty slots."""
    index_BC = selection.index_BC
    return AttentionGeometry(
        position_BT=_take(geometry.position_BT, index_BC, -1),
        window_start_BT=_take(geometry.window_start_BT, index_BC, 0),
        window_end_BT=_take(geometry.window_end_BT, index_BC, 0),
        phase_BT2R=_take(geometry.phase_BT2R, index_BC, 0),
    )


def routed_delta(
    block: Block,
    streams: _Streams,
    geometry: dict[str, AttentionGeometry],
    selection: dict[str, Selection | None],
    weight: _Streams,
) -> _Streams:
    """What a routed layer adds to each token: weight * block delta, or zero if skipped.

    Args:
      block: maps kept streams and their geometry to their delta.
      streams: stream -> [B, T, D].
      geometry: stream -> geometry of the same tokens.
      selection: stream -> which tokens are kept; None keeps the stream as it stands,
        with no gather at all.
      weight: stream -> float32 [B, T]; its gradient trains the router.

    Returns:
      stream -> [B, T, D].
    """
    kept, where = dict(streams), dict(geometry)
    for name, chosen in selection.items():
        if chosen is not None:
            kept[name] = move_rows(streams[name], chosen.index_BC, chosen.slot_BT)
            where[name] = kept_geometry(geometry[name], chosen)
    added = {}
    for name, delta_BCD in block(kept, where).items():
        weight_BT1, chosen = weight[name][..., None], selection[name]
        if chosen is None:
            added[name] = delta_BCD * weight_BT1.astype(delta_BCD.dtype)
            continue
        index_BC, slot_BT = chosen.index_BC, chosen.slot_BT
        weight_BC1 = move_rows(weight_BT1, index_BC, slot_BT)
        weighted_BCD = delta_BCD * weight_BC1.astype(delta_BCD.dtype)
        added[name] = move_rows(weighted_BCD, slot_BT, index_BC)
    return added
