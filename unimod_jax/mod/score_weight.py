"""Score weights: how a token's score scales what the layer adds to it.

The weight puts the router on the path of the task's gradient. It multiplies the delta
only; scaling the residual too would destroy a converted model.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

type ScoreWeight = Callable[[jax.Array], jax.Array]
"""float32 scores [B, T] to float32 weights of the same shape."""


def gentle_weight(score: jax.Array) -> jax.Array:
    """1 + 0.2 tanh(score): p-MoD's bounded weight (2412.04449, TanhNorm).

    A score of zero weighs exactly one, and the weight stays within [0.8, 1.2].
    """
    return 1.0 + 0.2 * jnp.tanh(score)


def raw_weight(score: jax.Array) -> jax.Array:
    """The score itself, as in Mixture-of-Depths (2404.02258); known to diverge."""
    return score


SCORE_WEIGHTS: dict[str, ScoreWeight] = {
    "gentle": gentle_weight,
    "sigmoid": jax.nn.sigmoid,
    "raw": raw_weight,
    "one": jnp.ones_like,
}
"""By name. "one" leaves the delta as it is, for scores that nothing learns."""
