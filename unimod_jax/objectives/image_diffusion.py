"""Diffusion on continuous patches beside next-token text: Transfusion (2408.11039).

Patches are noised with a cosine schedule and the model predicts the noise; one image's
patches see each other in both directions, everything else is causal. Where the image
comes before its caption, noise is capped so that the caption can be learned; an image
with no time at all is shown clean and predicts nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp

from unimod_jax.layout import IMAGE, RowLayout, TaskLayout, TokenGroup, UnifiedBatch
from unimod_jax.models import GroupOutput
from unimod_jax.models.embedding import read_patches
from unimod_jax.objectives.objective import Noise, task_key
from unimod_jax.objectives.token_loss import (
    LossSum,
    LossSums,
    token_loss,
    token_sums,
)

_NOISE_LOSS = f"{IMAGE}_loss"

_SCHEDULE_OFFSET = 0.008
"""s of the cosine schedule (Nichol and Dhariwal, 2102.09672, equation 17)."""

_SMALLEST_SIGNAL = 1e-4
"""Floor of the signal share, in place of the discrete schedule's beta clip at 0.999."""


def signal_share(time: jax.Array) -> jax.Array:
    """Cumulative alpha of the cosine schedule at times in [0, 1]; 1 is pure noise."""
    offset = _SCHEDULE_OFFSET
    angle = (time + offset) / (1.0 + offset) * (0.5 * jnp.pi)
    start = jnp.cos(jnp.asarray(offset / (1.0 + offset) * 0.5 * jnp.pi, time.dtype))
    share = jnp.square(jnp.cos(angle) / start)
    return jnp.clip(share, _SMALLEST_SIGNAL, 1.0)


def add_noise(clean: jax.Array, noise: jax.Array, share: jax.Array) -> jax.Array:
    """sqrt(share) * clean + sqrt(1 - share) * noise."""
    return jnp.sqrt(share) * clean + jnp.sqrt(1.0 - share) * noise


@dataclasses.dataclass(frozen=True)
class ImageDiffusion:
    """Noise prediction for images, next-token prediction for text.

    Attributes:
      diffusion_weight: lambda of L_LM + lambda L_DDPM; 5 in both papers.
      largest_value: to which the sampler clips what it takes for clean patches: 1 for
        pixels; 0 for no bound, because latents have none.
    """

    diffusion_weight: float = 5.0
    largest_value: float = 1.0

    @property
    def continuous_images(self) -> bool:
        """Images enter as patches."""
        return True

    def check(self, layout: RowLayout) -> None:
        """Refuses images that are written and not noised, and codes that are hidden.

        An image that is given may be shown clean (`Piece.largest_time` 0).
        """
        segments = layout.segments if isinstance(layout, TaskLayout) else ()
        for segment in segments:
            written = segment.continuous and segment.written
            if (
                segment.is_masked
                or segment.hidden_share
                or (written and not (segment.span and segment.largest_time))
            ):
                raise ValueError(
                    f"the piece {segment.name!r} of task {layout.task!r} is "
                    f"{segment.modality} with span {segment.span!r}, largest_time "
                    f"{segment.largest_time} and hidden_share {segment.hidden_share}, "
                    "but diffusion noises whole images that see themselves; give "
                    "written images a span and a largest_time, and hide nothing."
                )

    def corrupt(
        self, batch: UnifiedBatch, key: jax.Array
    ) -> tuple[UnifiedBatch, Noise]:
        """Noises every image at a random time of its own."""
        seen, noise = dict(batch), {}
        for task, group in batch.items():
            if group.layout.num_patches:
                seen[task], noise[task] = noise_patches(group, task_key(key, task))
        return seen, noise

    def loss_sums(
        self, group: TokenGroup, output: GroupOutput, noise: jax.Array | None
    ) -> LossSums:
        """Cross-entropy of text, and the squared error of the predicted noise."""
        sums = token_sums(group, output)
        if noise is not None:
            sums[_NOISE_LOSS] = noise_loss(group, output, noise)
        return sums

    def loss_of(self, sums: LossSums) -> jax.Array:
        """L_LM + lambda L_DDPM."""
        tokens = {name: part for name, part in sums.items() if name != _NOISE_LOSS}
        loss = token_loss(tokens, {})
        if _NOISE_LOSS in sums:
            loss += self.diffusion_weight * sums[_NOISE_LOSS].mean
        return loss


def noise_patches(group: TokenGroup, key: jax.Array) -> tuple[TokenGroup, jax.Array]:
    """Noises each image at a time of its own, uniform up to the largest it may have.

    Args:
      group: clean; times are uniform in (0, t], t being `largest_time_BN`.
      key: random key.

    Returns:
      (the noised group with its `patch_time_BN`, the noise float32 [B, N, P]).
    """
    time_key, noise_key = jax.random.split(key)
    size = group.layout.patches_per_image
    num_images = group.layout.num_patches // size
    share_of_time = 1.0 - jax.random.uniform(time_key, (group.num_rows, num_images))
    time_BN = group.largest_time_BN * jnp.repeat(share_of_time, size, axis=1)
    noise_BNP = jax.random.normal(noise_key, group.patch_BNP.shape)
    noised_BNP = add_noise(group.patch_BNP, noise_BNP, signal_share(time_BN)[..., None])
    noised = dataclasses.replace(group, patch_BNP=noised_BNP, patch_time_BN=time_BN)
    return noised, noise_BNP


def noise_loss(group: TokenGroup, output: GroupOutput, noise_BNP: jax.Array) -> LossSum:
    """Squared error of the predicted noise over all values of noised images.

    Images that are shown clean, and places for images that a row does not have, count
    for nothing.
    """
    total = num_patches = jnp.zeros((), jnp.float32)
    may_be_noised_BN1 = (group.largest_time_BN > 0.0)[..., None].astype(jnp.float32)
    for name, predicted_BTP in output.patches.items():
        patch_index_BT = group.streams[name].patch_index_BT
        error_BTP = predicted_BTP - read_patches(noise_BNP, patch_index_BT)
        counts_BT1 = read_patches(may_be_noised_BN1, patch_index_BT)
        total += jnp.sum(jnp.square(error_BTP) * counts_BT1)
        num_patches += jnp.sum(counts_BT1)
    return LossSum(total, num_patches * noise_BNP.shape[-1])
