"""A routed layer: gather the kept tokens, run the block on them, put its delta back.

x <- x + weight * delta for kept tokens, x unchanged for skipped ones (2502.06474,
equation 4). The weight multiplies the delta only, never the residual. Kept tokens carry
their original positions and windows, so attention among them needs nothing else.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pallas_kernels.inverse_gather import gather, inverse_gather
from unimod_jax.layout import AttentionGeometry
from unimod_jax.mod.selection import Selection
from unimod_jax.mod.token_choice import Chosen
from unimod_jax.parallel import constrain

ROUTED_DELTA = "routed_delta"
"""The name of what a routed layer's block says, for remat policies."""

type _Streams = dict[str, jax.Array]
type Block[Extra] = Callable[
    [_Streams, dict[str, AttentionGeometry]], tuple[_Streams, Extra]
]
"""Maps streams and their geometry to (their delta, whatever else, such as a cache)."""


def kept_geometry(
    geometry: AttentionGeometry, selection: Selection
) -> AttentionGeometry:
    """Positions, windows, phases of the kept tokens; unused places are empty slots."""
    index_BC = selection.index_BC
    # One gather for three: an unused place reads 0 0 0, position -1 and no window.
    place_BT3 = jnp.stack(
        [
            geometry.position_BT + 1,
            geometry.window_start_BT,
            geometry.window_end_BT,
        ],
        axis=-1,
    )
    place_BC3 = gather(place_BT3, index_BC)
    return AttentionGeometry(
        position_BT=place_BC3[..., 0] - 1,
        window_start_BT=place_BC3[..., 1],
        window_end_BT=place_BC3[..., 2],
        phase_BT2R=gather(geometry.phase_BT2R, index_BC),
    )


def routed_delta[Extra](
    block: Block[Extra],
    streams: _Streams,
    geometry: dict[str, AttentionGeometry],
    chosen: dict[str, Chosen],
) -> tuple[_Streams, Extra]:
    """What the block says of each token, before its weight: zero if skipped.

    Args:
      block: maps kept streams and their geometry to (their delta, extra); it alone
        knows what the extra is.
      streams: stream -> [B, T, D].
      geometry: stream -> geometry of the same tokens.
      chosen: stream -> which tokens are kept. Where the selection is None the stream is
        used as it stands, with no gather at all.

    Returns:
      (stream -> [B, T, D], the block's extra).
    """
    kept, where = dict(streams), dict(geometry)
    for name, choice in chosen.items():
        if (selection := choice.selection) is not None:
            moved_BCD = inverse_gather(
                streams[name], selection.index_BC, selection.slot_BT
            )
            kept[name] = constrain(moved_BCD, "batch", "token", None)
            where[name] = kept_geometry(geometry[name], selection)
    delta, extra = block(kept, where)
    return {name: _put_back(delta[name], chosen[name]) for name in delta}, extra


def _put_back(delta_BCD: jax.Array, choice: Chosen) -> jax.Array:
    """Deltas of the kept tokens, [B, T, D] with zeros for the skipped."""
    if choice.selection is None:
        return delta_BCD
    return inverse_gather(
        delta_BCD, choice.selection.slot_BT, choice.selection.index_BC
    )


def weighted(delta: _Streams, weight: _Streams) -> _Streams:
    """What a routed layer adds to each token: its weight times what the block says.

    A weight's gradient, which trains the router, is made of the delta itself. So the
    delta has a name: a remat policy that saves it need not compute the block's last
    products again, as no dense layer need.

    Args:
      delta: stream -> [B, T, D], from `routed_delta`.
      weight: stream -> float32 [B, T].
    """
    named = checkpoint_name(delta, ROUTED_DELTA)
    return {
        name: x_BTD * weight[name][..., None].astype(x_BTD.dtype)
        for name, x_BTD in named.items()
    }
