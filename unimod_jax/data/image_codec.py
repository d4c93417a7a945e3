"""Images as tokens and back, in pure NumPy: grey levels as codes, or patches as values.

Codes are the pixels themselves, rounded to `image_levels` even steps: lossless for data
sets with that many levels, such as the digits. Patches are cut from pixels, or from the
latents that a learned autoencoder makes of them.
"""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unimod_jax.data.record_schema import DataError
from unimod_jax.data.resizing import fit_to_square

if TYPE_CHECKING:
    from PIL import Image

    from unimod_jax.data.config import DataConfig

MAX_PIXEL = 255


def levels_to_pixels(level: np.ndarray, num_levels: int) -> np.ndarray:
    """Levels 0..num_levels-1 as uint8 pixels: round(level * 255 / (num_levels - 1))."""
    pixel = np.rint(np.asarray(level, np.float64) * MAX_PIXEL / (num_levels - 1))
    return pixel.astype(np.uint8)


def pixels_to_levels(pixel: np.ndarray, num_levels: int) -> np.ndarray:
    """The nearest level of each pixel 0..255 (any float or integer dtype), as int32."""
    level = np.rint(np.asarray(pixel, np.float64) * (num_levels - 1) / MAX_PIXEL)
    return level.astype(np.int32)


def pixels_to_codes(image: np.ndarray, config: "DataConfig") -> np.ndarray:
    """The image's codes in raster order, channels last.

    Args:
      image: uint8 [image_size, image_size, image_channels].
      config: `image_levels` and the image's shape.

    Returns:
      int32 [image_size * image_size * image_channels], each in [0, image_levels).
    """
    return pixels_to_levels(_checked(image, config), config.image_levels).reshape(-1)


def codes_to_pixels(codes: np.ndarray, config: "DataConfig") -> np.ndarray:
    """Inverse of `pixels_to_codes`: uint8 [image_size, image_size, image_channels].

    Raises DataError if there are too few or too many codes, or one is out of range.
    """
    codes = np.asarray(codes)
    if codes.shape != (config.num_image_codes,):
        raise DataError(
            f"an image of this data set has {config.num_image_codes} codes but got an "
            f"array of shape {list(codes.shape)}; pass one image's codes."
        )
    if codes.min() < 0 or codes.max() >= config.image_levels:
        raise DataError(
            f"image codes span {codes.min()}..{codes.max()} but must lie in "
            f"0..{config.image_levels - 1}; subtract image_start first."
        )
    return levels_to_pixels(codes, config.image_levels).reshape(_shape(config))


def pixels_to_patches(image: np.ndarray, config: "DataConfig") -> np.ndarray:
    """The image's patches in raster order, each pixel scaled to [-1, 1].

    Args:
      image: uint8 [image_size, image_size, image_channels].
      config: `patch_size` and the image's shape.

    Returns:
      float32 [N, P], N = (image_size / patch_size)^2, P = patch_size^2 * channels.
    """
    scaled = _checked(image, config).astype(np.float32) * (2 / MAX_PIXEL) - 1
    return _cut(scaled, config)


def patches_to_pixels(patch_NP: np.ndarray, config: "DataConfig") -> np.ndarray:
    """Inverse of `pixels_to_patches`, for any real values.

    Args:
      patch_NP: [N, P]; values outside [-1, 1] are clipped.
      config: `patch_size`, the image's shape, and `image_levels` to round to.

    Returns:
      uint8 [image_size, image_size, image_channels], each pixel on a level.

    Raises:
      DataError: if the shape is not [N, P] or a value is not finite.
    """
    pixel = (np.clip(_joined(patch_NP, config), -1, 1) + 1) * (MAX_PIXEL / 2)
    return levels_to_pixels(
        pixels_to_levels(pixel, config.image_levels), config.image_levels
    )


def latents_to_patches(latent_YXZ: np.ndarray, config: "DataConfig") -> np.ndarray:
    """Patches of the latents of a learned autoencoder, in raster order and scaled.

    Args:
      latent_YXZ: float32 [Y, X, Z], as the encoder makes them.
      config: `latent_channels`, `latent_scale` and `patch_size`.

    Returns:
      float32 [N, P], N = (Y / patch_size)^2, P = patch_size^2 * Z.

    Raises:
      DataError: for latents of another shape.
    """
    side = config.patched_size
    wanted = (side, side, config.latent_channels)
    if latent_YXZ.shape != wanted:
        raise DataError(
            f"latents have shape {list(latent_YXZ.shape)} but this data has "
            f"{list(wanted)}; set data.latent_channels to what the autoencoder has."
        )
    return _cut(latent_YXZ * np.float32(config.latent_scale), config)


def patches_to_latents(patch_NP: np.ndarray, config: "DataConfig") -> np.ndarray:
    """Inverse of `latents_to_patches`, float32 [Y, X, Z], for any real values.

    Raises:
      DataError: if the shape is not [N, P] or a value is not finite.
    """
    return _joined(patch_NP, config) / np.float32(config.latent_scale)


def _cut(value_YXC: np.ndarray, config: "DataConfig") -> np.ndarray:
    """Patches [N, P] of a square of values."""
    across = config.patched_size // config.patch_size
    side, channels = config.patch_size, config.patched_channels
    tiles = value_YXC.reshape(across, side, across, side, channels).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(config.num_patches, config.patch_width))


def _joined(patch_NP: np.ndarray, config: "DataConfig") -> np.ndarray:
    """The square of values [Y, X, C] that patches were cut from."""
    patch_NP = np.asarray(patch_NP, np.float32)
    wanted = (config.num_patches, config.patch_width)
    if patch_NP.shape != wanted or not np.isfinite(patch_NP).all():
        raise DataError(
            f"patches have shape {list(patch_NP.shape)} or hold values that are not "
            f"finite; pass finite values of shape {list(wanted)}."
        )
    across, whole = config.patched_size // config.patch_size, config.patched_size
    side, channels = config.patch_size, config.patched_channels
    tiles = patch_NP.reshape(across, across, side, side, channels).swapaxes(1, 2)
    return tiles.reshape(whole, whole, channels)


def load_png(path: str | os.PathLike[str], config: "DataConfig") -> np.ndarray:
    """Reads an image file as the model wants it, converting to grey or RGB as needed.

    Returns:
      uint8 [image_size, image_size, image_channels].

    Raises:
      DataError: if the file is missing or not an 8-bit image, or has another size while
        config.resize is off.
    """
    where = _named(path)
    mode = "L" if config.image_channels == 1 else "RGB"
    image = decode_image(_bytes_of(path), where, mode)
    if image.shape == _shape(config):
        return image
    if not config.resize:
        raise DataError(
            f"the image of {where} is {image.shape[0]} x {image.shape[1]} pixels but "
            f"data.image_size is {config.image_size}; scale it or set data.resize."
        )
    return fit_to_square(image, config.image_size)


def open_picture(path: str | os.PathLike[str]) -> "Image.Image":
    """An image file, decoded and otherwise as it is; DataError if it cannot be."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(_bytes_of(path)))
        picture.load()
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise _undecodable(_named(path), error) from error
    return picture


def decode_image(encoded: bytes, where: str, mode: str | None = None) -> np.ndarray:
    """Decodes a PNG or JPEG.

    Args:
      encoded: the bytes of the file.
      where: names the image in messages.
      mode: "L" or "RGB" to convert to; None keeps grey grey, and the rest is RGB.

    Returns:
      uint8 [height, width, channels], 1 or 3 channels.

    Raises:
      DataError: if the bytes are damaged, or not an 8-bit image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            kept = picture.mode
            mode = mode or ("L" if kept in ("1", "L", "LA") else "RGB")
            image = np.asarray(picture.convert(mode), np.uint8)
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise _undecodable(where, error) from error
    if kept not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise DataError(
            f"the image of {where} has mode {kept!r}; "
            "save it as an 8-bit grey or RGB PNG."
        )
    return image.reshape(*image.shape[:2], 1 if mode == "L" else 3)


_DAMAGED = (OSError, SyntaxError, ValueError)
"""What PIL raises for damage inside a file."""


def _named(path: str | os.PathLike[str]) -> str:
    return f"file {str(path)!r}"


def _bytes_of(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {_named(path)} ({error}); pass a PNG file."
        ) from error


def _undecodable(where: str, error: Exception) -> DataError:
    what = " ".join(str(error).split())
    return DataError(
        f"the image of {where} cannot be decoded ({what}); replace it by a PNG."
    )


def _shape(config: "DataConfig") -> tuple[int, int, int]:
    return (config.image_size, config.image_size, config.image_channels)


def _checked(image: np.ndarray, config: "DataConfig") -> np.ndarray:
    if image.shape != _shape(config) or image.dtype != np.uint8:
        raise DataError(
            f"image is {image.dtype} {list(image.shape)} but images must be "
            f"uint8 {list(_shape(config))}; resize or convert it first."
        )
    return image
