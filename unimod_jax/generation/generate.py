"""Which loop draws images for which objective; texts and speech are decoded for all."""

import dataclasses
import functools

import jax
import numpy as np

from unimod_jax.generation.bound_model import BoundModel
from unimod_jax.generation.diffusion_sampler import denoise_patches
from unimod_jax.generation.guidance import GuidedRows
from unimod_jax.generation.mask_git import RevealSchedule, reveal_codes
from unimod_jax.generation.text_decoder import decode_segment, without_line_ends
from unimod_jax.generation.token_sampler import TokenSampler
from unimod_jax.layout import with_segments
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken, Objective


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How images are drawn, and captions written.

    Attributes:
      guidance: scale of classifier-free guidance; 1 is none.
      temperature: of next-token sampling, or of MaskGIT's choice of what stays.
      num_steps: parallel decoding or denoising steps; next-token needs none.
      top_k: next-token sampling among the k likeliest only (Emu3: 2048); 0 among all.
      top_p: next-token sampling among the likeliest that together have this probability
        (Chameleon: 0.9); 1 among all.
      compounding: whether parallel decoding cools as Show-o's released code does, see
        `RevealSchedule`.
      negative_prompt: what guidance leads away from, in place of no prompt (Emu3).
      text_temperature: of sampling captions; 0 takes the likeliest token each time.
      text_top_p: as `top_p`, of captions.
      repetition_penalty: how much less captions like tokens that the row has, see
        `TokenSampler` (Chameleon: 1.2); 1 is no penalty.
    """

    guidance: float = 1.0
    temperature: float = 1.0
    num_steps: int = 16
    top_k: int = 0
    top_p: float = 1.0
    compounding: bool = False
    negative_prompt: str = ""
    text_temperature: float = 0.0
    text_top_p: float = 1.0
    repetition_penalty: float = 1.0

    @property
    def codes(self) -> TokenSampler:
        """How the next codes of an image are drawn."""
        return TokenSampler(self.temperature, self.top_k, self.top_p)

    @property
    def words(self) -> TokenSampler:
        """How the next words of a caption are drawn."""
        return TokenSampler(
            self.text_temperature,
            top_p=self.text_top_p,
            repetition_penalty=self.repetition_penalty,
        )

    @property
    def units(self) -> TokenSampler:
        """How the next units of an utterance are drawn."""
        return TokenSampler(self.text_temperature, top_p=self.text_top_p)

    @property
    def schedule(self) -> RevealSchedule:
        """How parallel decoding reveals codes."""
        return RevealSchedule(self.num_steps, self.temperature, self.compounding)


@dataclasses.dataclass(frozen=True)
class ImageCodes:
    """Where image codes stand in the vocabulary: ids [start, start + count) of size."""

    start: int
    count: int
    vocabulary_size: int

    def allowed(self) -> np.ndarray:
        """Boolean [V]: the ids that are image codes."""
        ids = np.arange(self.vocabulary_size)
        return (ids >= self.start) & (ids < self.start + self.count)


@functools.singledispatch
def draw_images(
    objective: Objective,
    model: BoundModel,
    guided: GuidedRows,
    segment: str,
    sampling: SamplingConfig,
    codes: ImageCodes,
    key: jax.Array,
) -> jax.Array:
    """Draws one image per row, in a segment of it, by the objective's own procedure.

    Returns:
      int32 codes [B, N] in [0, count), or float32 patches [B, N, P] for diffusion.

    Raises:
      TypeError: for an objective that has no procedure here.
    """
    raise TypeError(
        f"no way to draw images is known for {type(objective).__name__}; register one "
        f"with draw_images.register."
    )


@draw_images.register
def _(objective: NextToken, model, guided, segment, sampling, codes, key):
    token_id_BN = decode_segment(
        model, guided, segment, codes.allowed(), sampling.codes, key
    )
    image = with_segments(guided.rows.layout).segment(segment)
    return without_line_ends(token_id_BN, image.line_length) - codes.start


@draw_images.register
def _(objective: MaskedImage, model, guided, segment, sampling, codes, key):
    return reveal_codes(
        model,
        guided,
        segment,
        codes.start,
        codes.count,
        sampling.schedule,
        key,
    )


@draw_images.register
def _(objective: ImageDiffusion, model, guided, segment, sampling, codes, key):
    return denoise_patches(
        model, guided, segment, sampling.num_steps, key, objective.largest_value
    )
