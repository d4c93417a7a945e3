"""How each objective generates: every loop is one jitted function.

Reading order: `bound_model` (whole rows, or cached ones token by token), `guidance`,
`token_sampler`, `row_slices`, `text_decoder` (a segment, token by token), `mask_git`
(hidden codes in parallel), `diffusion_sampler` (patches by denoising),
`document_grammar`, `new_tokens`, `document_writer` (any modality next),
`mode_switching` (text, then denoising, then text), `generate` (which is whose).
"""

from unimod_jax.generation.bound_model import BoundModel
from unimod_jax.generation.diffusion_sampler import denoise_patches
from unimod_jax.generation.document_grammar import Grammar
from unimod_jax.generation.document_writer import (
    NO_TOKEN,
    DocumentWriter,
    Writing,
    write_documents,
)
from unimod_jax.generation.generate import SamplingConfig, draw_images
from unimod_jax.generation.guidance import GuidedRows, without_text
from unimod_jax.generation.looking_ahead import why_not_token_by_token
from unimod_jax.generation.mask_git import RevealSchedule, reveal_codes
from unimod_jax.generation.mode_switching import denoise_waiting, write_and_draw
from unimod_jax.generation.text_decoder import decode_segment
from unimod_jax.generation.token_sampler import TokenSampler

__all__ = [
    "NO_TOKEN",
    "BoundModel",
    "DocumentWriter",
    "Grammar",
    "GuidedRows",
    "RevealSchedule",
    "SamplingConfig",
    "TokenSampler",
    "Writing",
    "decode_segment",
    "denoise_patches",
    "denoise_waiting",
    "draw_images",
    "reveal_codes",
    "write_and_draw",
    "write_documents",
    "why_not_token_by_token",
    "without_text",
]
