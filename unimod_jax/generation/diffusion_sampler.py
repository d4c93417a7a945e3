"""Ancestral sampling of continuous patches (DDPM 2006.11239) on a strided schedule.

The patches are overwritten in place, step by step, while the text of the row stays
(Transfusion, 2408.11039, section 3.4; 250 steps there).
"""

import dataclasses

import jax
import jax.numpy as jnp

from unimod_jax.generation.guidance import Forward, GuidedRows
from unimod_jax.models.embedding import write_patches
from unimod_jax.objectives.image_diffusion import signal_share


def denoise_patches(
    forward: Forward, guided: GuidedRows, num_steps: int, key: jax.Array
) -> jax.Array:
    """Generates the patches of each row.

    Args:
      forward: the model on one task group.
      guided: rows to fill; the values of their patches do not matter.
      num_steps: denoising steps.
      key: random key.

    Returns:
      float32 [B, N, P] in about [-1, 1].
    """
    _, num_patches, patch_size = guided.rows.patch_BNP.shape
    shape = (guided.num_images, num_patches, patch_size)

    def step(index, carry):
        patch_BNP, key = carry
        time = 1.0 - index / num_steps
        share, next_share = signal_share(time), signal_share(time - 1.0 / num_steps)
        noise_BNP = _predict_noise(forward, guided, patch_BNP, time)
        clean_BNP = (patch_BNP - jnp.sqrt(1.0 - share) * noise_BNP) / jnp.sqrt(share)
        clean_BNP = jnp.clip(clean_BNP, -1.0, 1.0)
        # Mean and variance of q(x_next | x, clean), equations 6 and 7 of DDPM.
        kept = share / next_share
        from_clean = jnp.sqrt(next_share) * (1.0 - kept) / (1.0 - share)
        from_noised = jnp.sqrt(kept) * (1.0 - next_share) / (1.0 - share)
        deviation = jnp.sqrt((1.0 - kept) * (1.0 - next_share) / (1.0 - share))
        key, step_key = jax.random.split(key)
        fresh_BNP = jax.random.normal(step_key, shape)
        mean_BNP = from_clean * clean_BNP + from_noised * patch_BNP
        return mean_BNP + deviation * fresh_BNP, key

    key, first_key = jax.random.split(key)
    patch_BNP = jax.random.normal(first_key, shape)
    patch_BNP, _ = jax.lax.fori_loop(0, num_steps, step, (patch_BNP, key))
    return patch_BNP


def _predict_noise(
    forward: Forward, guided: GuidedRows, patch_BNP: jax.Array, time: jax.Array
) -> jax.Array:
    """The model's guided noise prediction in raster order, float32 [B, N, P]."""
    rows = dataclasses.replace(
        guided.rows,
        patch_BNP=guided.mirror(patch_BNP),
        patch_time_B=jnp.full((guided.rows.num_rows,), time, jnp.float32),
    )
    output = forward(rows)
    predicted = jnp.zeros_like(rows.patch_BNP)
    for name, token_BTP in output.patches.items():
        patch_index_BT = rows.streams[name].patch_index_BT
        predicted += write_patches(token_BTP, patch_index_BT, patch_BNP.shape[1])
    return guided.combine(predicted)
