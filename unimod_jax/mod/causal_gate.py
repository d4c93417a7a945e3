"""The causal gate: a threshold on router scores that follows the keep ratio.

Top-k over a causal row looks at later tokens. Here a token is kept when its score
passes a threshold held as state, so training, prefill and decoding share one rule.
After each training step the threshold moves towards that step's own (1 - keep ratio)
quantile of scores: a controller in units of the scores, with no step size to tune (a
fixed nudge makes the kept share swing, docs/decisions.md).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

STATE = "router_state"
"""The Flax collection that holds thresholds; mutable in training only."""

_MEMORY = 0.5
"""Share of the running quantile kept per step: two steps of memory (measured: with ten
steps the threshold lags the drifting scores and nothing passes it early on)."""


def score_quantile(
    score_BT: jax.Array, valid_BT: jax.Array, keep_ratio: float
) -> jax.Array:
    """The score that a keep_ratio share of the valid tokens exceed; float32 scalar."""
    score_N = jnp.where(valid_BT, score_BT, jnp.inf).reshape(-1)
    num_valid = jnp.sum(valid_BT.astype(jnp.float32))
    num_skipped = jnp.floor((1.0 - keep_ratio) * num_valid).astype(jnp.int32)
    sorted_N = jnp.sort(score_N)
    # The last skipped score: tokens strictly above it number keep_ratio * valid.
    return sorted_N[jnp.clip(num_skipped - 1, 0, score_N.shape[0] - 1)]


class CausalGate(nn.Module):
    """One threshold per stream of one task in one layer.

    Attributes:
      streams: the streams that need a gate.
    """

    streams: tuple[str, ...]

    def setup(self) -> None:
        """Makes (decayed quantile sum, decayed weight) per stream."""
        self.running = {
            name: self.variable(STATE, name, lambda: jnp.zeros((2,), jnp.float32))
            for name in self.streams
        }

    def threshold(self, stream: str) -> jax.Array:
        """The threshold of a stream, float32 scalar; 0 before the first step."""
        total, weight = self.running[stream].value
        return total / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)

    def follow(
        self, stream: str, score_BT: jax.Array, valid_BT: jax.Array, keep_ratio: float
    ) -> None:
        """Moves the threshold towards this step's quantile, where state is mutable."""
        if self.is_initializing() or not self.is_mutable_collection(STATE):
            return
        score_BT = jax.lax.stop_gradient(score_BT)
        quantile = score_quantile(score_BT, valid_BT, keep_ratio)
        sample = jnp.stack([quantile, jnp.ones((), jnp.float32)])
        state = self.running[stream]
        moved = _MEMORY * state.value + (1.0 - _MEMORY) * sample
        # A stream without tokens has no quantile: its threshold stays.
        state.value = jnp.where(jnp.any(valid_BT), moved, state.value)
