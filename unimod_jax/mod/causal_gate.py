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

from unimod_jax.mod.selection import num_to_keep

STATE = "router_state"
"""The Flax collection that holds thresholds and random keys; mutable in training only.

Applying a model with it mutable, and nothing else, is calibration: after a few batches
every threshold stands where the scores of these batches pass in the share asked for.
"""

_MEMORY = 0.5
"""Share of the running quantile kept per step: two steps of memory (measured: with ten
steps the threshold lags the drifting scores and nothing passes it early on)."""

_BELOW = 1e-6
"""How far, relatively and absolutely, a threshold that all pass is below the lowest."""


def is_training(module: nn.Module) -> bool:
    """Whether this call is a training (or calibration) step: the state may change."""
    return module.is_mutable_collection(STATE) and not module.is_initializing()


def score_quantile(
    score_BT: jax.Array, valid_BT: jax.Array, keep_ratio: float
) -> jax.Array:
    """The score that a keep_ratio share of the valid tokens exceed; float32 scalar.

    The share is rounded up, as in top-k. The result lies midway between the last
    skipped and the lowest kept score, so that rounding elsewhere does not decide; where
    none is to be skipped, it is a finite score below all valid ones. Without valid
    tokens it means nothing.
    """
    score_N = jnp.where(valid_BT, score_BT, jnp.inf).reshape(-1)
    num_valid = jnp.sum(valid_BT.astype(jnp.int32))
    num_skipped = num_valid - num_to_keep(keep_ratio, num_valid)
    sorted_N = jnp.sort(score_N)
    lowest = sorted_N[0]
    last = score_N.shape[0] - 1
    last_skipped = sorted_N[jnp.clip(num_skipped - 1, 0, last)]
    lowest_kept = sorted_N[jnp.clip(num_skipped, 0, last)]
    below_all = lowest - _BELOW * (1.0 + jnp.abs(lowest))
    between = 0.5 * (last_skipped + lowest_kept)
    return jnp.where(num_skipped > 0, between, below_all)


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

    def threshold(self, stream: str, initial: float = 0.0) -> jax.Array:
        """The threshold of a stream, float32 scalar; `initial` before the first step.

        The first step alone sets it, so one batch calibrates an empty gate.
        """
        total, weight = self.running[stream].value
        mean = total / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
        return jnp.where(weight > 0.0, mean, jnp.float32(initial))

    def stay(self) -> None:
        """Writes every threshold as it stands, where state is mutable.

        Capacities of one ramp are branches of one program, which must all write the
        same state, also where everything is kept and no threshold is asked.
        """
        if is_training(self):
            for state in self.running.values():
                state.value = jnp.asarray(state.value)

    def follow(
        self, stream: str, score_BT: jax.Array, valid_BT: jax.Array, keep_ratio: float
    ) -> None:
        """Moves the threshold towards this step's quantile, where state is mutable."""
        if not is_training(self):
            return
        score_BT = jax.lax.stop_gradient(score_BT)
        quantile = score_quantile(score_BT, valid_BT, keep_ratio)
        sample = jnp.stack([quantile, jnp.ones((), jnp.float32)])
        state = self.running[stream]
        moved = _MEMORY * state.value + (1.0 - _MEMORY) * sample
        # A stream without tokens has no quantile: its threshold stays.
        state.value = jnp.where(jnp.any(valid_BT), moved, state.value)
