"""How each objective generates: every loop is one jitted function of the whole row.

Reading order: `guidance`, `text_decoder` (token by token), `mask_git` (hidden codes in
parallel), `diffusion_sampler` (patches by denoising), `generate` (which is whose).
"""

from unimod_jax.generation.diffusion_sampler import denoise_patches
from unimod_jax.generation.generate import SamplingConfig, caption_images, draw_images
from unimod_jax.generation.guidance import GuidedRows
from unimod_jax.generation.mask_git import reveal_codes
from unimod_jax.generation.text_decoder import decode_segment

__all__ = [
    "GuidedRows",
    "SamplingConfig",
    "caption_images",
    "decode_segment",
    "denoise_patches",
    "draw_images",
    "reveal_codes",
]
