"""Predicts, from a token alone, whether top-k over the whole row would keep it.

The second fix of Mixture-of-Depths for causal sampling (2404.02258, section 3.5): a
small network on inputs whose gradient is stopped, so that learning to predict does not
disturb the language model.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unimod_jax.mod.task_router import normalised

_SHRINK = 4
_LEAST_HIDDEN = 8


class MembershipPredictor(nn.Module):
    """D -> D / 4 (at least 8) -> 1 per token, with weights of its own per stream.

    The paper gives no sizes. The last map starts at zero, like the router's.

    Attributes:
      streams: names of the streams it may see.
      width: D.
    """

    streams: tuple[str, ...]
    width: int

    @nn.compact
    def __call__(self, streams: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Maps stream -> [B, T, D] to stream -> float32 logits [B, T]."""
        hidden = max(_LEAST_HIDDEN, self.width // _SHRINK)
        fan_in = nn.with_logical_partitioning(
            initializers.lecun_normal(), ("embed", None)
        )
        zeros = nn.with_logical_partitioning(initializers.zeros, (None,))
        weights = {
            name: (
                self.param(f"{name}_in", fan_in, (self.width, hidden), unbox=True),
                self.param(f"{name}_bias", zeros, (hidden,), unbox=True),
                self.param(f"{name}_out", zeros, (hidden,), unbox=True),
            )
            for name in self.streams
        }
        return {name: _logit(x, *weights[name]) for name, x in streams.items()}


def _logit(
    x_BTD: jax.Array, in_DF: jax.Array, bias_F: jax.Array, out_F: jax.Array
) -> jax.Array:
    x_BTD = normalised(jax.lax.stop_gradient(x_BTD))
    return nn.gelu(x_BTD @ in_DF + bias_F[None, None]) @ out_F


def membership_loss(
    logit_BT: jax.Array, member_BT: jax.Array, valid_BT: jax.Array
) -> jax.Array:
    """Binary cross-entropy of membership, mean over valid tokens; float32 scalar.

    Args:
      logit_BT: float32.
      member_BT: boolean, whether top-k kept the token.
      valid_BT: boolean, false in empty slots.
    """
    loss_BT = jax.nn.softplus(jnp.where(member_BT, -logit_BT, logit_BT))
    num_valid = jnp.sum(valid_BT.astype(jnp.float32))
    return jnp.sum(jnp.where(valid_BT, loss_BT, 0.0)) / jnp.maximum(num_valid, 1.0)
