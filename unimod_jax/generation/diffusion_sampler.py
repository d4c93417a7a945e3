"""Ancestral sampling of continuous patches (DDPM 2006.11239) on a strided schedule.

The patches are overwritten in place, step by step, while the text of the row stays
(Transfusion, 2408.11039, section 3.4; 250 steps there).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from unimod_jax.generation.guidance import Forward, GuidedRows
from unimod_jax.layout import TokenGroup, with_segments
from unimod_jax.models import GroupOutput
from unimod_jax.models.embedding import write_patches
from unimod_jax.objectives.image_diffusion import signal_share


def denoise_patches(
    forward: Forward,
    guided: GuidedRows,
    segment: str,
    num_steps: int,
    key: jax.Array,
    largest_value: float = 1.0,
) -> jax.Array:
    """Generates the patches of an image of each row; its other images stay clean.

    Args:
      forward: the model on one task group.
      guided: rows to fill.
      segment: name of the image; the values of its patches do not matter.
      num_steps: denoising steps.
      key: random key.
      largest_value: of clean patches; 0 if they have no bound.

    Returns:
      float32 [B, N, P].
    """
    layout = with_segments(guided.rows.layout)
    first, num_patches = layout.patch_range(segment)
    image = slice(first, first + num_patches)
    patch_size = guided.rows.patch_BNP.shape[2]

    def predict_noise(patch_BNP: jax.Array, time: jax.Array) -> jax.Array:
        rows = dataclasses.replace(
            guided.rows,
            patch_BNP=guided.rows.patch_BNP.at[:, image].set(guided.mirror(patch_BNP)),
            patch_time_BN=guided.rows.patch_time_BN.at[:, image].set(time),
        )
        return guided.combine(patches_of(forward(rows), rows)[:, image])

    shape = (guided.num_images, num_patches, patch_size)
    return ancestral_sampling(predict_noise, shape, num_steps, key, largest_value)


def ancestral_sampling(
    predict_noise: Callable[[jax.Array, jax.Array], jax.Array],
    shape: tuple[int, int, int],
    num_steps: int,
    key: jax.Array,
    largest_value: float = 1.0,
) -> jax.Array:
    """Denoises from pure noise to time 0.

    Args:
      predict_noise: (patches [B, N, P], time in (0, 1]) -> the noise in them.
      shape: (B, N, P).
      num_steps: denoising steps, evenly spaced in time.
      key: random key.
      largest_value: to which every prediction of clean patches is clipped, on either
        side of 0; 0 leaves them as they are.

    Returns:
      float32 [B, N, P].
    """
    bound = largest_value or jnp.inf

    def step(index, carry):
        patch_BNP, key = carry
        time = 1.0 - index / num_steps
        share, next_share = signal_share(time), signal_share(time - 1.0 / num_steps)
        noise_BNP = predict_noise(patch_BNP, time)
        clean_BNP = (patch_BNP - jnp.sqrt(1.0 - share) * noise_BNP) / jnp.sqrt(share)
        clean_BNP = jnp.clip(clean_BNP, -bound, bound)
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


def noised(rows: TokenGroup, patch_BNP: jax.Array, time: jax.Array) -> TokenGroup:
    """The rows with other patches, all noised as far as a time says."""
    time_BN = jnp.full(patch_BNP.shape[:2], time, jnp.float32)
    return dataclasses.replace(rows, patch_BNP=patch_BNP, patch_time_BN=time_BN)


def patches_of(output: GroupOutput, rows: TokenGroup) -> jax.Array:
    """What the patch head says, in raster order, float32 [B, N, P]."""
    patch_BNP = jnp.zeros_like(rows.patch_BNP)
    for name, token_BTP in output.patches.items():
        patch_index_BT = rows.streams[name].patch_index_BT
        patch_BNP += write_patches(token_BTP, patch_index_BT, patch_BNP.shape[1])
    return patch_BNP
