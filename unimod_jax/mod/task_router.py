"""The router: one linear score per token, for one task in one layer.

UniMoD names the router but not its form (2502.06474, section 4.1); its lineage is a
linear map from width to one (2404.02258). The input is normalised without a learned
scale, which the map would absorb; streams with towers of their own get a map of their
own.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

_INITIAL_SCALE = 1e-3
"""Standard deviation of the initial weights: small, so that a converted layer starts at
weight one, but not zero, because equal scores would always drop a row's tail."""


def gentle_weight(score: jax.Array) -> jax.Array:
    """1 + 0.2 tanh(score), float32: p-MoD's bounded weight (2412.04449, TanhNorm).

    A raw score is known to diverge; this one starts at 1 and stays within [0.8, 1.2].
    """
    return 1.0 + 0.2 * jnp.tanh(score)


class TaskRouter(nn.Module):
    """Scores each token of one task.

    Attributes:
      streams: names of the streams it may see.
      width: D.
    """

    streams: tuple[str, ...]
    width: int

    @nn.compact
    def __call__(self, streams: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Maps stream -> [B, T, D] to stream -> float32 scores [B, T]."""
        normal = initializers.normal(_INITIAL_SCALE)
        init = nn.with_logical_partitioning(normal, ("embed",))
        weights: dict[str, jax.Array] = {
            name: self.param(name, init, (self.width,), unbox=True)
            for name in self.streams
        }
        return {name: _score(x, weights[name]) for name, x in streams.items()}


def _score(x_BTD: jax.Array, weight_D: jax.Array) -> jax.Array:
    x_f32 = x_BTD.astype(jnp.float32)
    norm_BT = jax.lax.rsqrt(jnp.mean(jnp.square(x_f32), axis=-1) + 1e-6)
    return (x_f32 @ weight_D) * norm_BT
