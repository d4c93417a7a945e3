"""Where image codes come from: grey levels, or a tokenizer that has been learned.

A learned autoencoder is the same for images that are diffused: its latents take the
places of codes, and patches are cut from them instead of from pixels.

An `ImageCodec` turns a batch of pictures into rows of codes and back. Grey levels need
nothing, so documents make them as they go. A learned codec runs a network, so it takes
many images at once: beforehand for training, where codes are kept on disk
(`stored_codes`) and records get theirs when they are read (`CodedRecords`), by the
batch for sampling.
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
    latents_to_patches,
    load_png,
    open_picture,
    pixels_to_codes,
    pixels_to_patches,
)
from unimod_jax.data.record_schema import DataError, Image, Part, Record, Records

if TYPE_CHECKING:
    from PIL import Image as PillowImage

ENCODED_AT_ONCE = 8
"""Images that pass a learned tokenizer together."""


class ImageCodec(Protocol):
    """Images as codes or latents, a batch at a time, on the host."""

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Of uint8 [B, image_size, image_size, channels].

        Returns:
          Codes int32 [B, N] from 0, or latents float32 [B, Y, X, Z].
        """
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes or latents -> uint8 [B, image_size, image_size, channels]."""
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

    picture: Callable[["PillowImage.Image"], np.ndarray]
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
        return (_unit(self.decoder(grid)) * 255).astype(np.uint8)

    def read_picture(self, path: str | os.PathLike[str]) -> np.ndarray:
        """The file, scaled and cropped as published."""
        return self.picture(open_picture(path))


@dataclasses.dataclass(frozen=True)
class LearnedLatents:
    """A learned autoencoder behind the same interface, with latents for codes.

    Attributes:
      config: the image's shape.
      encoder: float32 [B, Y, X, 3] in [-1, 1] -> latents [B, y, x, Z], jitted by its
        maker.
      decoder: float32 latents [B, y, x, Z] -> [B, Y, X, 3] in about [-1, 1].
    """

    config: DataConfig
    encoder: Callable[[np.ndarray], Any]
    decoder: Callable[[np.ndarray], Any]

    def encode(self, images: np.ndarray) -> np.ndarray:
        """The latents of each image."""
        pixel_BYXC = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
        return np.asarray(self.encoder(pixel_BYXC), np.float32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The image of each square of latents; values are clipped and rounded.

        That is what diffusers' VaeImageProcessor does.
        """
        latent_BYXZ = np.asarray(codes, np.float32)
        return np.rint(_unit(self.decoder(latent_BYXZ)) * 255).astype(np.uint8)

    def read_picture(self, path: str | os.PathLike[str]) -> np.ndarray:
        """The file in RGB, scaled as records are; `load_png`."""
        return load_png(path, self.config)


def _unit(pixel_BYXC: Any) -> np.ndarray:
    """What a decoder returns, clipped and brought to [0, 1]."""
    return (np.clip(np.asarray(pixel_BYXC), -1.0, 1.0) + 1.0) / 2.0


def codes_of(image: Image, config: DataConfig, where: str) -> np.ndarray:
    """An image's codes: those it has, or its grey levels; int32 [N].

    Args:
      image: of a record; its pixels are not read if it has codes.
      config: whether grey levels are this data's codes at all.
      where: names the image in messages.

    Raises:
      DataError: if there are no codes where a learned tokenizer has to make them.
    """
    if image.codes is not None:
        return image.codes
    if config.code_size:
        raise DataError(
            f"{where} has no image codes, and data.code_size {config.code_size} says "
            "that a learned tokenizer makes them; encode the images first."
        )
    return pixels_to_codes(image.pixels, config)


def patches_of(image: Image, config: DataConfig, where: str) -> np.ndarray:
    """An image's patches: of its latents, or of its pixels; float32 [N, P].

    Args:
      image: of a record; its pixels are not read if patches are cut from latents.
      config: what patches are cut from.
      where: names the image in messages.

    Raises:
      DataError: if there are no latents where a learned autoencoder has to make them.
    """
    if not config.latent_channels:
        return pixels_to_patches(image.pixels, config)
    if image.codes is None:
        raise DataError(
            f"{where} has no latents, and data.latent_channels "
            f"{config.latent_channels} says that a learned autoencoder makes them; "
            "encode the images first."
        )
    return latents_to_patches(image.codes, config)


class CodeRows(Protocol):
    """Codes or latents by index: an array, or `StoredCodes`."""

    def __getitem__(self, index: int, /) -> np.ndarray:
        """int32 [N], or float32 [Y, X, Z]."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class CodedRecords(Records):
    """Records that get the codes of their images when they are read.

    Their images are left undecoded.

    Attributes:
      records: of a split, or some of them.
      codes: of all images of the records, in their order.
      first_image: of each record, the number of its first image among all of them.
    """

    records: Sequence[Record]
    codes: CodeRows
    first_image: np.ndarray

    def __len__(self) -> int:
        """Number of records."""
        return len(self.records)

    def read(self, place: int) -> Record:
        """One record, its images with their codes."""
        record, number = self.records[place], int(self.first_image[place])
        parts: list[Part] = []
        for part in record.parts:
            if isinstance(part, Image):
                part = dataclasses.replace(part, codes=self.codes[number])
                number += 1
            parts.append(part)
        return dataclasses.replace(record, parts=tuple(parts))


def first_images(records: Sequence[Record]) -> np.ndarray:
    """The number of each record's first image, and of all images last; int64 [n + 1].

    Records are read only where one may have more or fewer images than another.
    """
    each = records.images_per_record if isinstance(records, Records) else None
    if each is not None:
        return each * np.arange(len(records) + 1)
    counts = [len(record.images) for record in records]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def with_codes(records: Sequence[Record], codec: ImageCodec) -> CodedRecords:
    """Records with the codes of their images, made now and kept in memory."""
    firsts = first_images(records)
    images = [image for record in records for image in record.images]
    return CodedRecords(records, encode_images(images, codec), firsts)


def encode_images(images: Iterable[Image], codec: ImageCodec) -> np.ndarray:
    """Codes or latents of images, [number of images, ...].

    Args:
      images: at least one; only a batch of them is held at a time.
      codec: a learned one.
    """
    batches = itertools.batched(images, ENCODED_AT_ONCE)
    return np.concatenate(
        [
            encode_batch([image.pixels for image in batch], codec, ENCODED_AT_ONCE)
            for batch in batches
        ]
    )


def encode_batch(
    images: Sequence[np.ndarray], codec: ImageCodec, batch_size: int
) -> np.ndarray:
    """Codes or latents of at most batch_size images, [len(images), ...].

    The codec always sees a whole batch: the last image again where there are too few.
    """
    filled = [*images, *[images[-1]] * (batch_size - len(images))]
    return codec.encode(np.stack(filled))[: len(images)]
