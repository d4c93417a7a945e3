"""Where image codes come from: grey levels, or a tokenizer that has been learned.

An `ImageCodec` turns a batch of pictures into rows of codes and back. Grey levels need
nothing, so documents make them as they go. A learned codec runs a network, so it takes
many images at once: beforehand for training (`with_codes`), by the batch for sampling.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from unimod_jax.data.config import DataConfig
from unimod_jax.data.image_codec import (
    codes_to_pixels,
    load_png,
    open_picture,
    pixels_to_codes,
)
from unimod_jax.data.record_schema import DataError, Record

if TYPE_CHECKING:
    from PIL import Image


class ImageCodec(Protocol):
    """Images as codes, a batch at a time, on the host."""

    def encode(self, images: np.ndarray) -> np.ndarray:
        """uint8 [B, image_size, image_size, channels] -> int32 [B, N] from 0."""
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int32 [B, N] -> uint8 [B, image_size, image_size, channels]."""
        ...

    def read_picture(self, path: str | os.PathLike[str]) -> np.ndarray:
        """An image file at the size that is encoded; DataError if it cannot be."""
        ...


@dataclasses.dataclass(frozen=True)
class GreyLevels:
    """The pixels themselves, rounded to `image_levels` even steps; see `image_codec`.

    Attributes:
      config: the image's shape and its levels.
    """

    config: DataConfig

    def encode(self, images: np.ndarray) -> np.ndarray:
        """The levels of each image in raster order, channels last."""
        return np.stack([pixels_to_codes(image, self.config) for image in images])

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The image of each row of levels."""
        return np.stack([codes_to_pixels(row, self.config) for row in codes])

    def read_picture(self, path: str | os.PathLike[str]) -> np.ndarray:
        """The file, grey or RGB as the data are; `load_png`."""
        return load_png(path, self.config)


@dataclasses.dataclass(frozen=True)
class LearnedCodec:
    """A learned image tokenizer behind the same interface.

    Attributes:
      picture: a picture of any size -> uint8 [Y, X, 3], as each released model was
        trained to see it (`released.pixels`).
      scale: uint8 [B, Y, X, 3] -> what the network reads, float32 in [-1, 1].
      encoder: float32 [B, Y, X, 3] -> integer codes [B, h, w], jitted by its maker.
      decoder: int32 codes [B, h, w] -> float32 [B, Y, X, 3] in about [-1, 1].
      height: h, lines of codes.
      width: w, codes per line.
    """

    picture: Callable[["Image.Image"], np.ndarray]
    scale: Callable[[np.ndarray], np.ndarray]
    encoder: Callable[[np.ndarray], Any]
    decoder: Callable[[np.ndarray], Any]
    height: int
    width: int

    def encode(self, images: np.ndarray) -> np.ndarray:
        """The codes of each image in raster order."""
        codes = np.asarray(self.encoder(self.scale(images)), np.int32)
        return codes.reshape(len(images), self.height * self.width)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The image of each row of codes; values are clipped, and rounded down.

        That is what Show-o, Chameleon and Emu3 all do with what their decoders return.
        """
        grid = np.asarray(codes, np.int32).reshape(-1, self.height, self.width)
        unit = (np.clip(np.asarray(self.decoder(grid)), -1.0, 1.0) + 1.0) / 2.0
        return (unit * 255).astype(np.uint8)

    def read_picture(self, path: str | os.PathLike[str]) -> np.ndarray:
        """The file, scaled and cropped as published."""
        return self.picture(open_picture(path))


def codes_of(
    image: np.ndarray | None, codes: np.ndarray | None, config: DataConfig, where: str
) -> np.ndarray:
    """An image's codes: those it has, or its grey levels; int32 [N].

    Args:
      image: uint8 [image_size, image_size, channels]; None if it has codes.
      codes: made beforehand, or None.
      config: whether grey levels are this data's codes at all.
      where: names the image in messages.

    Raises:
      DataError: if there are no codes where a learned tokenizer has to make them.
    """
    if codes is not None:
        return codes
    if config.code_size or image is None:
        raise DataError(
            f"{where} has no image codes, and data.code_size {config.code_size} says "
            "that a learned tokenizer makes them; encode the images first."
        )
    return pixels_to_codes(image, config)


def with_codes(
    records: Iterable[Record], codec: ImageCodec, batch_size: int
) -> list[Record]:
    """The records with the codes of their images, encoded a batch at a time.

    Args:
      records: their images all of one size.
      codec: a learned one.
      batch_size: images that go through it at once; the last batch is filled up, so
        that all have one shape.
    """
    encoded: list[Record] = []
    for batch in itertools.batched(records, batch_size):
        codes_BN = encode_batch([record.image for record in batch], codec, batch_size)
        encoded += [
            dataclasses.replace(record, codes=code_N)
            for record, code_N in zip(batch, codes_BN, strict=True)
        ]
    return encoded


def encode_batch(
    images: Sequence[np.ndarray], codec: ImageCodec, batch_size: int
) -> np.ndarray:
    """Codes of at most batch_size images, int32 [len(images), N].

    The codec always sees a whole batch: the last image again where there are too few.
    """
    filled = [*images, *[images[-1]] * (batch_size - len(images))]
    return codec.encode(np.stack(filled))[: len(images)]
