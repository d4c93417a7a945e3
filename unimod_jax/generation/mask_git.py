"""Iterative parallel decoding of hidden image codes (MaskGIT 2202.04200; Show-o).

Every step samples all hidden codes at once and hides the least certain again, fewer
each time. How fast both go is a schedule: MaskGIT's, or that of Show-o's released code.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.generation.guidance import Forward, GuidedRows
from unimod_jax.layout import with_segments


@dataclasses.dataclass(frozen=True)
class RevealSchedule:
    """How codes are revealed step by step.

    Attributes:
      num_steps: parallel steps.
      temperature: of the Gumbel noise that decides which codes stay; 0 keeps the most
        certain ones.
      compounding: Show-o's way (showlab/Show-o, models/modeling_showo.py): the
        temperature is multiplied by 1 - progress at every step, where MaskGIT's falls
        linearly, and every step reveals at least one code and leaves one.
    """

    num_steps: int
    temperature: float = 1.0
    compounding: bool = False

    def noise(self, step: jax.Array) -> jax.Array:
        """The temperature of a step, float32 scalar.

        Args:
          step: int32, from 0.
        """
        if not self.compounding:
            return self.temperature * (1.0 - self.progress(step))
        left = 1.0 - np.arange(1, self.num_steps + 1) / self.num_steps
        return jnp.asarray(self.temperature * np.cumprod(left), jnp.float32)[step]

    def progress(self, step: jax.Array) -> jax.Array:
        """Share of the steps that are done with this one, in (0, 1]."""
        return (step + 1) / self.num_steps

    def num_hidden(
        self, step: jax.Array, num_tokens: int, hidden_BN: jax.Array
    ) -> jax.Array:
        """How many codes of each row are hidden after a step, float32 [B, 1].

        Args:
          step: int32, from 0.
          num_tokens: codes of an image.
          hidden_BN: boolean, those hidden before the step.
        """
        angle = 0.5 * jnp.pi * self.progress(step)
        wanted = jnp.floor(num_tokens * jnp.cos(angle))
        before_B1 = jnp.sum(hidden_BN, axis=1, keepdims=True).astype(jnp.float32)
        if not self.compounding:
            return jnp.broadcast_to(wanted, before_B1.shape)
        return jnp.maximum(jnp.minimum(wanted, before_B1 - 1.0), 1.0)


def reveal_codes(
    forward: Forward,
    guided: GuidedRows,
    segment: str,
    code_start: int,
    num_codes: int,
    schedule: RevealSchedule,
    key: jax.Array,
) -> jax.Array:
    """Generates the codes of an image of each row.

    Args:
      forward: the model on one task group.
      guided: rows to fill.
      segment: name of the image; what its slots hold does not matter.
      code_start: vocabulary id of image code 0.
      num_codes: how many codes there are.
      schedule: how many steps, and how they go.
      key: random key.

    Returns:
      int32 [B, N], codes in [0, num_codes).
    """
    stream, start, num_tokens = with_segments(guided.rows.layout).slot_range(segment)
    image = slice(start, start + num_tokens)
    codes = slice(code_start, code_start + num_codes)
    held_BT = guided.rows.streams[stream].token_id_BT
    mask = guided.rows.layout.special.mask

    def step(index, carry):
        code_BN, key = carry
        hidden_BN = code_BN < 0
        id_BN = jnp.where(hidden_BN, mask, code_BN + code_start)
        token_id_BT = held_BT.at[:, image].set(guided.mirror(id_BN))
        output = forward(guided.rows.with_stream(stream, token_id_BT=token_id_BT))
        hidden_BND = output.hidden[stream][:, image]
        logits_BNV = guided.combine(output.head.logits(hidden_BND, codes))
        key, sample_key, noise_key = jax.random.split(key, 3)
        sampled_BN = jax.random.categorical(sample_key, logits_BNV).astype(jnp.int32)
        sampled_BN = jnp.where(hidden_BN, sampled_BN, code_BN)
        log_share_BNV = jax.nn.log_softmax(logits_BNV)
        certainty_BN = jnp.take_along_axis(
            log_share_BNV, sampled_BN[..., None], axis=-1
        )[..., 0]
        noise_BN = jax.random.gumbel(noise_key, certainty_BN.shape)
        certainty_BN += schedule.noise(index) * noise_BN
        certainty_BN = jnp.where(hidden_BN, certainty_BN, jnp.inf)
        num_hidden_B1 = schedule.num_hidden(index, num_tokens, hidden_BN)
        rank_BN = jnp.argsort(jnp.argsort(certainty_BN, axis=1), axis=1)
        hide_BN = hidden_BN & (rank_BN.astype(jnp.float32) < num_hidden_B1)
        is_last = jnp.asarray(index + 1 == schedule.num_steps)
        return jnp.where(hide_BN & ~is_last, -1, sampled_BN), key

    code_BN = jnp.full((guided.num_images, num_tokens), -1, jnp.int32)
    code_BN, _ = jax.lax.fori_loop(0, schedule.num_steps, step, (code_BN, key))
    return code_BN
