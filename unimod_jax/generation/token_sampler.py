"""From logits to the next token: what is allowed, how likely, and by chance.

A sampler may like ids less that a row has already (CTRL, 1909.05858). Then whoever
calls it keeps track of them: a boolean per row and id, or None where nothing depends on
it, which costs nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp

from unimod_jax.layout import TokenGroup

type Seen = jax.Array | None
"""Which ids each row has, boolean [B, V]; None where no sampler asks."""


@dataclasses.dataclass(frozen=True)
class TokenSampler:
    """How the next token is drawn.

    Attributes:
      temperature: divides the logits; 0 is greedy.
      top_k: draws among the k likeliest only (Emu3: 2048); 0 among all.
      top_p: draws among the likeliest that together have this probability (Chameleon:
        0.9); 1 among all.
      repetition_penalty: before all else, divides the positive logits of ids that the
        row has, and multiplies their negative ones (Chameleon's text: 1.2); 1 is none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __call__(
        self,
        logits_BV: jax.Array,
        allowed_BV: jax.Array,
        key: jax.Array,
        seen_BV: Seen = None,
    ) -> jax.Array:
        """Draws one id per row, int32 [B].

        Args:
          logits_BV: float32.
          allowed_BV: boolean [B or 1, V], the ids that may be drawn, at least one.
          key: random key, unused when greedy.
          seen_BV: the ids that are penalised; see `seen_in` and `with_seen`.
        """
        floor = jnp.finfo(jnp.float32).min
        if seen_BV is not None:
            logits_BV = jnp.where(seen_BV, self._penalised(logits_BV), logits_BV)
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

    def seen_in(self, rows: TokenGroup, vocabulary_size: int) -> Seen:
        """The ids of whole rows, prompts and markers too, where repetitions count."""
        if self.repetition_penalty == 1.0:
            return None
        seen_BV = jnp.zeros((rows.num_rows, vocabulary_size), bool)
        for name, stream in rows.streams.items():
            held_BT = stream.modality_BT >= 0
            if rows.layout.holds_patches(name):
                held_BT &= stream.patch_index_BT < 0
            seen_BV = _marked(seen_BV, stream.token_id_BT, held_BT)
        return seen_BV

    def _penalised(self, logits_BV: jax.Array) -> jax.Array:
        """Less likely by the penalty, whatever the sign."""
        penalty = self.repetition_penalty
        return jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)

    def _in_nucleus(self, logits_BV: jax.Array) -> jax.Array:
        """Boolean [B, V]: the likeliest ids, the last of which reaches top_p."""
        share_BV = jax.nn.softmax(logits_BV)
        sorted_BV = -jnp.sort(-share_BV, axis=-1)
        before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
        kept_BV = jnp.where(before_BV < self.top_p, sorted_BV, jnp.inf)
        return share_BV >= jnp.min(kept_BV, axis=-1, keepdims=True)


def with_seen(seen_BV: Seen, token_id_B: jax.Array, added_B: jax.Array) -> Seen:
    """What rows have after one more token each.

    Args:
      seen_BV: what they have before.
      token_id_B: int32.
      added_B: boolean; a row that adds nothing stays as it is.
    """
    if seen_BV is None:
        return None
    return _marked(seen_BV, token_id_B[:, None], added_B[:, None])


def _marked(seen_BV: jax.Array, id_BT: jax.Array, held_BT: jax.Array) -> jax.Array:
    num_rows, vocabulary_size = seen_BV.shape
    # What no slot holds is put outside of the vocabulary, where it is dropped.
    id_BT = jnp.where(held_BT, id_BT, vocabulary_size)
    row_B1 = jnp.arange(num_rows)[:, None]
    return seen_BV.at[row_B1, id_BT].set(True, mode="drop")
