"""Random scores: the control that says what a learned router is worth.

A layer's key is state and moves on with every training step, so that training meets
many subsets; elsewhere it stands still. A token's score depends on the key, its row and
its position only, so a token decoded alone scores as it would in the full row.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax.mod.causal_gate import STATE, is_training


class RandomScorer(nn.Module):
    """Draws a score per token.

    Attributes:
      streams: names of the streams it may see; each gets draws of its own.
    """

    streams: tuple[str, ...]

    @nn.compact
    def __call__(self, position: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Maps stream -> int32 positions [B, T] to float32 scores in [0, 1)."""
        state = self.variable(
            STATE, "key", lambda: jax.random.key_data(self.make_rng("params"))
        )
        key = jax.random.wrap_key_data(state.value)
        if is_training(self):
            key, _ = jax.random.split(key)
            state.value = jax.random.key_data(key)
        return {
            name: _draw(jax.random.fold_in(key, self.streams.index(name)), position_BT)
            for name, position_BT in position.items()
        }


def _draw(key: jax.Array, position_BT: jax.Array) -> jax.Array:
    """Uniform scores in [0, 1) that are functions of (key, row, position)."""

    def token(row_key: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(row_key, position))

    row_B = jnp.arange(position_BT.shape[0])
    key_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_B)
    by_token = jax.vmap(jax.vmap(token, in_axes=(None, 0)))
    return by_token(key_B, jnp.maximum(position_BT, 0))
