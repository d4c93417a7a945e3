"""The families of released models: what belongs together, and how each generates."""

import dataclasses
from collections.abc import Callable, Mapping

from unimod_jax.convert import phi
from unimod_jax.convert import show_o as show_o_weights
from unimod_jax.convert.image_tokenizer_files import (
    CHAMELEON_VQGAN,
    MAGVIT_V2,
    MOVQGAN,
)
from unimod_jax.data import TextTokenizer
from unimod_jax.data.released import chameleon, emu3, show_o
from unimod_jax.generation import SamplingConfig
from unimod_jax.layout import TaskFamily
from unimod_jax.models import ModelConfig
from unimod_jax.presets import preset


@dataclasses.dataclass(frozen=True)
class LargerModel:
    """A model whose training begins from published weights that lack some of it.

    Attributes:
      begins_from: the architecture of those weights, where the files do not tell it.
      model_config: from that architecture, and the vocabulary rows that the tokenizers
        need, to its own.
      layout: name of its own published layout.
      file_name: of its own published weights.
    """

    begins_from: ModelConfig
    model_config: Callable[[ModelConfig, int], ModelConfig]
    layout: str
    file_name: str


@dataclasses.dataclass(frozen=True)
class Family:
    """What the released models of one kind share.

    Attributes:
      name: how commands call it.
      layouts: names of its published layouts (`convert.LAYOUTS`).
      preset: objective, recipe and routes, and sizes where the files do not tell them.
      image_tokenizer: kind of its image tokenizer.
      image_size: pixels along a side of the images it was trained on.
      has_lines: whether a token ends each line of codes.
      shares: task -> share of the rows of a training step.
      sampling: how it draws and describes, as published.
      read_tokenizer: opens its text tokenizer: (path, rows, image_codes).
      tasks: its rows: (tokenizer, codes along a side).
      larger: what begins from the weights; None where they are the whole model.
    """

    name: str
    layouts: tuple[str, ...]
    preset: str
    image_tokenizer: str
    image_size: int
    has_lines: bool
    shares: Mapping[str, int]
    sampling: SamplingConfig
    read_tokenizer: Callable[..., TextTokenizer]
    tasks: Callable[[TextTokenizer, int], TaskFamily]
    larger: LargerModel | None = None

    def published_model(self) -> ModelConfig:
        """The architecture of the weights, where the files do not tell it."""
        return self.larger.begins_from if self.larger else preset(self.preset).model


SHOW_O = Family(
    name="show-o",
    layouts=("show_o", "show_o_clip"),
    preset="show_o_512",
    image_tokenizer=MAGVIT_V2,
    image_size=512,
    has_lines=False,
    shares={"text_to_image": 5, "image_to_text": 5, "text_only": 2},
    # README of showlab/Show-o, 512 px: its guidance of 5 is ours of 6. Answers are
    # greedy: its inference_mmu.py has top_k 1.
    sampling=SamplingConfig(guidance=6.0, num_steps=50, compounding=True),
    read_tokenizer=show_o.read,
    tasks=lambda tokenizer, side: show_o.tasks(tokenizer),
)

# Show-o's first stages: 256 pixels (configs/showo_pretraining_stage1.yaml).
PHI = dataclasses.replace(
    SHOW_O,
    name="phi",
    layouts=("phi",),
    preset="show_o_256",
    image_size=256,
    larger=LargerModel(
        phi.phi_1_5(),
        show_o_weights.begun_from,
        layout="show_o",
        file_name=show_o_weights.FILE_NAME,
    ),
)

EMU3 = Family(
    name="emu3",
    layouts=("emu3", "emu3_hf", "emu3_hf_old"),
    preset="emu3",
    image_tokenizer=MOVQGAN,
    image_size=512,
    has_lines=True,
    shares={"text_to_image": 1, "image_to_text": 1},
    # image_generation.py of baaivision/Emu3. Answers are greedy: the configuration in
    # its multimodal_understanding.py does not sample.
    sampling=SamplingConfig(
        guidance=3.0,
        top_k=2048,
        negative_prompt=(
            "lowres, bad anatomy, bad hands, text, error, missing fingers, extra "
            "digit, fewer digits, cropped, worst quality, low quality, normal quality, "
            "jpeg artifacts, signature, watermark, username, blurry."
        ),
    ),
    read_tokenizer=emu3.read,
    tasks=lambda tokenizer, side: emu3.tasks(tokenizer, side, side),
)

CHAMELEON = Family(
    name="chameleon",
    layouts=("chameleon", "chameleon_original"),
    preset="chameleon_7b_released",
    image_tokenizer=CHAMELEON_VQGAN,
    image_size=512,
    has_lines=False,
    shares={"text_to_image": 1, "image_to_text": 1},
    # Options of facebookresearch/chameleon. It guides three ways, but without images in
    # the prompt "images only" and "nothing" are one row: its scale for text remains.
    # Answers end at <racm3:break> too, which begins an image: not a word, never drawn.
    sampling=SamplingConfig(
        guidance=3.0,
        temperature=0.7,
        top_p=0.9,
        text_temperature=0.7,
        text_top_p=0.9,
        repetition_penalty=1.2,
    ),
    read_tokenizer=chameleon.read,
    tasks=lambda tokenizer, side: chameleon.tasks(tokenizer),
)

FAMILIES = {family.name: family for family in (SHOW_O, PHI, EMU3, CHAMELEON)}
