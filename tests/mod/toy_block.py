"""A block small enough to read: one head of rotary attention over all streams."""

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.layout import AttentionGeometry, apply_rotary, rotary_phase

WIDTH = 16


def geometry_of(position_BT, window_end_BT) -> AttentionGeometry:
    """Windows from the row's start; empty slots have position -1."""
    position_BT = jnp.asarray(position_BT, jnp.int32)
    return AttentionGeometry(
        position_BT,
        jnp.zeros_like(position_BT),
        jnp.asarray(window_end_BT, jnp.int32),
        rotary_phase(position_BT, WIDTH, 100.0),
    )


def causal_geometry(position_BT) -> AttentionGeometry:
    """Causal windows."""
    position_BT = jnp.asarray(position_BT, jnp.int32)
    return geometry_of(position_BT, position_BT + 1)


def random_params(seed: int = 1) -> dict[str, jax.Array]:
    """Four D x D maps."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(0.25 * rng.normal(size=(WIDTH, WIDTH)), jnp.float32)
        for name in ("query", "key", "value", "output")
    }


def toy_block(params, streams, geometry):
    """The delta of each stream: attention to all visible tokens of all streams."""

    def turned(name, kernel):
        x_BT1D = (streams[name] @ params[kernel])[:, :, None]
        return apply_rotary(x_BT1D, geometry[name].phase_BT2R)[:, :, 0]

    key_BSD = jnp.concatenate([turned(name, "key") for name in streams], axis=1)
    value_BSD = jnp.concatenate([x @ params["value"] for x in streams.values()], axis=1)
    position_B1S = jnp.concatenate(
        [geometry[name].position_BT for name in streams], axis=1
    )[:, None]
    delta = {}
    for name in streams:
        where = geometry[name]
        visible_BTS = (
            (position_B1S >= 0)
            & (position_B1S >= where.window_start_BT[..., None])
            & (position_B1S < where.window_end_BT[..., None])
        )
        logit_BTS = turned(name, "query") @ key_BSD.swapaxes(1, 2)
        logit_BTS = jnp.where(visible_BTS, logit_BTS, -1e30)
        attention_BTS = jnp.where(visible_BTS, jax.nn.softmax(logit_BTS), 0.0)
        delta[name] = attention_BTS @ value_BSD @ params["output"]
    return delta
