"""From logits to the next token: what is allowed, how likely, and by chance."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class TokenSampler:
    """How the next token is drawn.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      top_k: draws among the k likeliest only (Emu3: 2048); 0 among all.
      top_p: draws among the likeliest that together have this probability (Chameleon:
        0.9); 1 among all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __call__(
        self, logits_BV: jax.Array, allowed_BV: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Draws one id per row, int32 [B].

        Args:
          logits_BV: float32.
          allowed_BV: boolean [B or 1, V], the ids that may be drawn, at least one.
          key: random key, unused when greedy.
        """
        floor = jnp.finfo(jnp.float32).min
        logits_BV = jnp.where(allowed_BV, logits_BV, floor)
        if self.temperature == 0.0:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        logits_BV = logits_BV / self.temperature
        if 0 < self.top_k < logits_BV.shape[-1]:
            best_BK = jax.lax.top_k(logits_BV, self.top_k)[0]
            logits_BV = jnp.where(logits_BV >= best_BK[:, -1:], logits_BV, floor)
        if self.top_p < 1.0:
            logits_BV = jnp.where(self._in_nucleus(logits_BV), logits_BV, floor)
        return jax.random.categorical(key, logits_BV).astype(jnp.int32)

    def _in_nucleus(self, logits_BV: jax.Array) -> jax.Array:
        """Boolean [B, V]: the likeliest ids, the last of which reaches top_p."""
        share_BV = jax.nn.softmax(logits_BV)
        sorted_BV = -jnp.sort(-share_BV, axis=-1)
        before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
        kept_BV = jnp.where(before_BV < self.top_p, sorted_BV, jnp.inf)
        return share_BV >= jnp.min(kept_BV, axis=-1, keepdims=True)
