"""The router: one linear score per token, for one task in one layer.

UniMoD names the router but not its form (2502.06474, section 4.1); its lineage is a
linear map from width to one (2404.02258). The input is normalised without a learned
scale, which the map would absorb; streams with towers of their own get a map of their
own.

The map starts at zero (p-MoD, 2412.04449): every score is 0, so the gentle weight is
exactly one and a converted dense model stays as it was. All scores then tie, and a rank
that breaks ties by order would always drop a row's tail (in Show-o, the image). So
selections, and nothing else, see scores with a jitter that depends on the position
alone and is spread evenly over any stretch of a row.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

JITTER = 1e-3
"""Size of the jitter: far below the scores of a router that has learned anything."""

_GOLDEN = 2654435769
"""The golden ratio's fractional part, times 2^32: the Weyl sequence spread best."""


def jitter(position_BT: jax.Array) -> jax.Array:
    """JITTER * fractional part of (position * golden ratio), float32 in [0, JITTER).

    Whole numbers modulo 2^32 do the multiplication, so it is exact at any position, and
    the same whether a token stands in a full row or is decoded alone.

    Args:
      position_BT: int32 positions.
    """
    turned_BT = position_BT.astype(jnp.uint32) * jnp.uint32(_GOLDEN)
    return (turned_BT >> 8).astype(jnp.float32) * (JITTER / 2**24)


def inverse_root_mean_square(x: jax.Array) -> jax.Array:
    """1 / root mean square of tokens [..., D]; float32 [...]."""
    mean_square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1)
    return jax.lax.rsqrt(mean_square + 1e-6)


def normalised(x: jax.Array) -> jax.Array:
    """Tokens [..., D] with root mean square one, float32, without a learned scale."""
    return x.astype(jnp.float32) * inverse_root_mean_square(x)[..., None]


def normalised_score(x: jax.Array, weight_D: jax.Array) -> jax.Array:
    """`normalised(x) @ weight`, float32 [...], without storing normalised tokens.

    Two sums over the same tokens, in one pass and with one pass back: what a router
    costs is reading its tokens.

    Args:
      x: [..., D], any float dtype.
      weight_D: float32.
    """
    product = jnp.einsum("...D,D->...", x.astype(jnp.float32), weight_D)
    return product * inverse_root_mean_square(x)


class TaskRouter(nn.Module):
    """Scores each token of one task, or of all tasks that share the router.

    Attributes:
      streams: names of the streams it may see.
      width: D.
    """

    streams: tuple[str, ...]
    width: int

    @nn.compact
    def __call__(self, streams: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Maps stream -> [B, T, D] to stream -> float32 scores [B, T]."""
        init = nn.with_logical_partitioning(initializers.zeros, ("embed",))
        weights: dict[str, jax.Array] = {
            name: self.param(name, init, (self.width,), unbox=True)
            for name in self.streams
        }
        return {name: normalised_score(x, weights[name]) for name, x in streams.items()}
