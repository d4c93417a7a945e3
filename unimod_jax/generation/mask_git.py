"""Iterative parallel decoding of hidden image codes (MaskGIT 2202.04200; Show-o).

Every step samples all hidden codes at once and hides the least certain again, fewer
each time. Show-o's released sampler multiplies its temperature by (1 - progress)
cumulatively; here it falls linearly, as in MaskGIT.
"""

import jax
import jax.numpy as jnp

from unimod_jax.generation.guidance import Forward, GuidedRows
from unimod_jax.layout import special_tokens, with_segments


def reveal_codes(
    forward: Forward,
    guided: GuidedRows,
    code_start: int,
    num_codes: int,
    num_steps: int,
    temperature: float,
    key: jax.Array,
) -> jax.Array:
    """Generates the codes of each row's image segment.

    Args:
      forward: the model on one task group.
      guided: rows to fill; what their image slots hold does not matter.
      code_start: vocabulary id of image code 0.
      num_codes: how many codes there are.
      num_steps: parallel steps.
      temperature: of the Gumbel noise that decides which codes stay; 0 keeps the most
        certain ones.
      key: random key.

    Returns:
      int32 [B, N], codes in [0, num_codes).
    """
    stream, start, num_tokens = with_segments(guided.rows.layout).slot_range("image")
    image = slice(start, start + num_tokens)
    codes = slice(code_start, code_start + num_codes)
    held_BT = guided.rows.streams[stream].token_id_BT

    def step(index, carry):
        code_BN, key = carry
        hidden_BN = code_BN < 0
        id_BN = jnp.where(hidden_BN, special_tokens.MASK, code_BN + code_start)
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
        progress = (index + 1) / num_steps
        noise_BN = jax.random.gumbel(noise_key, certainty_BN.shape)
        certainty_BN += temperature * (1.0 - progress) * noise_BN
        certainty_BN = jnp.where(hidden_BN, certainty_BN, jnp.inf)
        num_hidden = jnp.floor(num_tokens * jnp.cos(0.5 * jnp.pi * progress))
        rank_BN = jnp.argsort(jnp.argsort(certainty_BN, axis=1), axis=1)
        hide_BN = hidden_BN & (rank_BN.astype(jnp.float32) < num_hidden)
        is_last = jnp.asarray(index + 1 == num_steps)
        return jnp.where(hide_BN & ~is_last, -1, sampled_BN), key

    code_BN = jnp.full((guided.num_images, num_tokens), -1, jnp.int32)
    code_BN, _ = jax.lax.fori_loop(0, num_steps, step, (code_BN, key))
    return code_BN
