"""Rotary position embedding from explicit positions, so it survives any reordering.

RoFormer (arXiv 2104.09864) in the half-split form of Llama's Hugging Face weights.
Positions are data: a gathered, regrouped or cached token keeps its original angle.
"""

import jax
import jax.numpy as jnp


def rotary_phase(position_BT: jax.Array, head_dim: int, theta: float) -> jax.Array:
    """Cosines and sines of each token's rotary angles.

    Args:
      position_BT: int32 positions; empty slots (-1) get a finite, unused angle.
      head_dim: E, even.
      theta: base of the geometric series of wavelengths, in tokens.

    Returns:
      float32 [B, T, 2, R]: cosines, then sines, with R = E / 2.
    """
    exponent_R = jnp.arange(head_dim // 2, dtype=jnp.float32) * (2.0 / head_dim)
    frequency_R = jnp.asarray(theta, jnp.float32) ** -exponent_R
    angle_BTR = position_BT.astype(jnp.float32)[..., None] * frequency_R[None, None]
    return jnp.stack([jnp.cos(angle_BTR), jnp.sin(angle_BTR)], axis=2)


def apply_rotary(x_BTHE: jax.Array, phase_BT2R: jax.Array) -> jax.Array:
    """Rotates each head's (first half, second half) pairs by the token's angles.

    Args:
      x_BTHE: queries or keys, any float dtype; the result has the same.
      phase_BT2R: from `rotary_phase`.
    """
    first, second = jnp.split(x_BTHE, 2, axis=-1)
    cosine = phase_BT2R[:, :, 0, None, :].astype(x_BTHE.dtype)
    sine = phase_BT2R[:, :, 1, None, :].astype(x_BTHE.dtype)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )
