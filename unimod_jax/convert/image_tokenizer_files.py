"""Published files of image tokenizers: which one they hold, of which sizes, and it.

Their configurations are published in as many forms as there are repositories, or not at
all; the tensors are always there. So the sizes are read off the tensors' shapes, and
the table made for these sizes then says whether every tensor is as it must be.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimod_jax.convert import chameleon_vqgan, magvit_v2, movqgan
from unimod_jax.convert.check_tensors import check_tensors
from unimod_jax.convert.conversion_error import ConversionError
from unimod_jax.convert.read_weights import read_parameters
from unimod_jax.convert.tensor_files import TensorFiles, open_tensor_files
from unimod_jax.convert.weight_map import WeightMap
from unimod_jax.image_tokenizers import (
    ChameleonVqganConfig,
    ImageTokenizer,
    Ladder,
    MagvitV2Config,
    MovqganConfig,
    chameleon_vqgan_tokenizer,
    magvit_v2_tokenizer,
    movqgan_tokenizer,
)

MAGVIT_V2 = "magvit_v2"
CHAMELEON_VQGAN = "chameleon_vqgan"
MOVQGAN = "movqgan"

WITHIN = ("model.vqmodel.", "vqmodel.")
"""What begins their names where a file of transformers holds a language model too."""

_TRAINING_LOSS = "loss."
"""What taming-transformers' training leaves in a checkpoint."""


@dataclasses.dataclass(frozen=True)
class PublishedTokenizer:
    """An image tokenizer as published files hold it.

    Attributes:
      kind: MAGVIT_V2, CHAMELEON_VQGAN or MOVQGAN.
      tokenizer: of the sizes of the files.
      table: which tensor is which parameter.
      can_draw: whether the files hold a decoder.
      derived: names of further tensors, which follow from the sizes.
    """

    kind: str
    tokenizer: ImageTokenizer
    table: WeightMap
    can_draw: bool = True
    derived: tuple[str, ...] = ()


def published_tokenizer(files: TensorFiles) -> PublishedTokenizer:
    """Which image tokenizer files hold, checked tensor by tensor.

    Args:
      files: of an image tokenizer alone, or of a model of transformers that holds one.

    Raises:
      ConversionError: for files that hold none that is known, or not all of it.
    """
    shapes = _Shapes(files)
    make = next((make for mark, make in _MAKERS if shapes.any(mark)), None)
    if make is None:
        raise ConversionError(
            f"{files.path} holds no image tokenizer that is known "
            f"({', '.join(files.names[:3])}, ...); give the files of MAGVIT-v2 "
            "(showlab/magvitv2), Chameleon's VQ-GAN or Emu3-VisionTokenizer."
        )
    published = make(shapes)
    rest = [name for name in files.names if not name.startswith(shapes.prefix)]
    elsewhere = (*published.derived, _TRAINING_LOSS, *(rest if shapes.prefix else ()))
    check_tensors(files, [published.table], elsewhere)
    return published


def read_image_tokenizer(
    path: Path | str,
) -> tuple[PublishedTokenizer, dict[str, Any]]:
    """The image tokenizer of a file or folder, and its parameters in float32.

    Raises:
      ConversionError: as `published_tokenizer`, or for files that cannot be read.
    """
    files = open_tensor_files(path)
    published = published_tokenizer(files)
    return published, read_parameters(files, published.table)


class _Shapes:
    """Shapes of an image tokenizer's tensors by their names without prefix."""

    def __init__(self, files: TensorFiles) -> None:
        found = (p for p in WITHIN if any(n.startswith(p) for n in files.names))
        self.prefix = next(found, "")
        self._shapes = {
            name.removeprefix(self.prefix): files.shape(name)
            for name in files.names
            if name.startswith(self.prefix)
        }
        self._path = files.path

    def any(self, pattern: str) -> bool:
        """Whether a name matches from its beginning."""
        return any(re.match(pattern, name) for name in self._shapes)

    def of(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor; ConversionError if it is not there, or no such one."""
        shape = self._shapes.get(name, ())
        if len(shape) != dimensions:
            raise ConversionError(
                f"{self._path} has no tensor {self.prefix}{name} with {dimensions} "
                "axes, which says how large the image tokenizer is; download it again."
            )
        return shape

    def ladder(self, side: str) -> Ladder:
        """Widths and blocks of the levels of "encoder" or "decoder"."""
        found = rf"{side}\.(?:\w+_block\.)?(?:down|up)\.(\d+)\.(block|attn)\.(\d+)\."
        blocks: dict[int, set[int]] = {}
        attends: set[int] = set()
        widths: dict[int, int] = {}
        for name, shape in self._shapes.items():
            if not (match := re.match(found, name)):
                continue
            level = int(match[1])
            if match[2] == "attn":
                attends.add(level)
                continue
            blocks.setdefault(level, set()).add(int(match[3]))
            if name.endswith(".0.conv1.weight"):
                widths[level] = shape[0]
        if sorted(widths) != list(range(len(blocks))) or not widths:
            raise ConversionError(
                f"{self._path} has no whole {side} of an image tokenizer (levels "
                f"{sorted(blocks)}); download it again."
            )
        levels = range(len(blocks))
        return Ladder(
            tuple(widths[level] for level in levels),
            tuple(len(blocks[level]) for level in levels),
            tuple(sorted(attends)),
        )

    def named(self, table: WeightMap, prefix: str) -> WeightMap:
        """A table whose names begin with the prefix of these files instead."""
        return {
            path: dataclasses.replace(
                tensor, name=self.prefix + tensor.name.removeprefix(prefix)
            )
            for path, tensor in table.items()
        }


def _magvit_v2(shapes: _Shapes) -> PublishedTokenizer:
    config = MagvitV2Config(
        shapes.ladder("encoder"),
        shapes.ladder("decoder"),
        shapes.of("encoder.quant_conv.weight", 4)[0],
    )
    return PublishedTokenizer(
        MAGVIT_V2,
        magvit_v2_tokenizer(config),
        magvit_v2.weight_map(config),
        derived=tuple(magvit_v2.derived_tensors(config)),
    )


def _movqgan(shapes: _Shapes) -> PublishedTokenizer:
    ladder = shapes.ladder("encoder")
    num_codes, width = shapes.of("quantize.embedding.weight", 2)
    halvings = 0
    while shapes.any(rf"encoder\.time_conv\.{halvings}\."):
        halvings += 1
    config = MovqganConfig(
        ladder.channels,
        ladder.blocks[0],
        ladder.attention_levels,
        shapes.of("encoder.conv_out.weight", 4)[0],
        width,
        num_codes,
        halvings,
    )
    layout = movqgan.TRANSFORMERS if shapes.prefix else movqgan.ORIGINAL
    table = shapes.named(movqgan.weight_map(config, layout), WITHIN[0])
    return PublishedTokenizer(MOVQGAN, movqgan_tokenizer(config), table)


def _chameleon_vqgan(shapes: _Shapes) -> PublishedTokenizer:
    ladder = shapes.ladder("encoder")
    num_codes, width = shapes.of("quantize.embedding.weight", 2)
    latent = shapes.of("encoder.conv_out.weight", 4)[0]
    config = ChameleonVqganConfig(
        ladder.channels, ladder.blocks[0], latent, width, num_codes
    )
    can_draw = shapes.any(r"decoder\.")
    of_all, of_encoder = chameleon_vqgan.weight_map, chameleon_vqgan.encoder_weight_map
    table = of_all(config) if can_draw else of_encoder(config)
    return PublishedTokenizer(
        CHAMELEON_VQGAN,
        chameleon_vqgan_tokenizer(config),
        shapes.named(table, "" if can_draw else WITHIN[0]),
        can_draw,
    )


_MAKERS: tuple[tuple[str, Callable[[_Shapes], PublishedTokenizer]], ...] = (
    (r"encoder\.quant_conv\.", _magvit_v2),
    (r"encoder\.time_res_stack\.", _movqgan),
    (r"quant_conv\.", _chameleon_vqgan),
)
"""What only one kind has, and what makes it."""
