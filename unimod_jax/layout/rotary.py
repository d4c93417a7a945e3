"""Rotary position embedding from explicit positions, so it survives any reordering.

RoFormer (arXiv 2104.09864) in the half-split form of Llama's Hugging Face weights.
Positions are data: a gathered, regrouped or cached token keeps its original angle. A
phase of fewer pairs than a head has turns the first dimensions only (Phi-1.5, and so
Show-o, turn half of them).
"""

import jax
import jax.numpy as jnp


def rotary_phase(position_BT: jax.Array, rotated_dim: int, theta: float) -> jax.Array:
    """Cosines and sines of each token's rotary angles.

    Args:
      position_BT: int32 positions; empty slots (-1) get a finite, unused angle.
      rotated_dim: how many dimensions of a head turn, even; E for all of them. The
        wavelengths are spread over these, whatever E is.
      theta: base of the geometric series of wavelengths, in tokens.

    Returns:
      float32 [B, T, 2, R]: cosines, then sines, with R = rotated_dim / 2.

    Raises:
      ValueError: if rotated_dim is odd.
    """
    if rotated_dim % 2:
        raise ValueError(
            f"rotated_dim {rotated_dim} is odd, but rotary positions turn pairs; "
            "choose an even number."
        )
    exponent_R = jnp.arange(rotated_dim // 2, dtype=jnp.float32) * (2.0 / rotated_dim)
    frequency_R = jnp.asarray(theta, jnp.float32) ** -exponent_R
    angle_BTR = position_BT.astype(jnp.float32)[..., None] * frequency_R[None, None]
    return jnp.stack([jnp.cos(angle_BTR), jnp.sin(angle_BTR)], axis=2)


def apply_rotary(x_BTHE: jax.Array, phase_BT2R: jax.Array) -> jax.Array:
    """Rotates the (first half, second half) pairs of each head's first 2 R dimensions.

    Args:
      x_BTHE: queries or keys, any float dtype; the result has the same. Dimensions
        past 2 R stay as they are.
      phase_BT2R: from `rotary_phase`.

    Raises:
      ValueError: if the phase has more pairs than a head.
    """
    num_pairs, head_dim = phase_BT2R.shape[-1], x_BTHE.shape[-1]
    if 2 * num_pairs > head_dim:
        raise ValueError(
            f"the phase turns {2 * num_pairs} dimensions but a head has {head_dim}; "
            "make rotary_phase with at most as many."
        )
    first, second, rest = jnp.split(x_BTHE, [num_pairs, 2 * num_pairs], axis=-1)
    cosine = phase_BT2R[:, :, 0, None, :].astype(x_BTHE.dtype)
    sine = phase_BT2R[:, :, 1, None, :].astype(x_BTHE.dtype)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1
    )
