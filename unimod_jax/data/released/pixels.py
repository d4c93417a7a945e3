"""Pictures as each released image tokenizer was trained to see them.

Two steps for each model, as published: to the right size, still in 8 bits, then to
real values in [-1, 1]. The first makes what a data set of that model would hold, the
second stands before the network. The arithmetic is the published one to the last bit;
that is why there are three scales.
"""

import math

import numpy as np
from PIL import Image

from unimod_jax.data.record_schema import DataError

SHOW_O_SIZES = (256, 512)
CHAMELEON_SIZE = 512
EMU3_FACTOR = 8
EMU3_PIXELS = (512 * 512, 1024 * 1024)
"""Fewest and most pixels of an image (Emu3-VisionTokenizer's processor)."""

_EMU3_LARGEST_ASPECT = 5
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def show_o_picture(picture: Image.Image, size: int) -> np.ndarray:
    """Short side to `size`, bicubic, and the centre: uint8 [size, size, 3].

    As torchvision's Resize and CenterCrop do it (Show-o, training/utils.py): the long
    side is rounded down, the crop's corner half to even.

    Args:
      picture: any 8-bit picture.
      size: one of `SHOW_O_SIZES` for the released models.

    Raises:
      DataError: if the picture's mode or size cannot be used.
    """
    rgb = _checked(picture).convert("RGB")
    width, height = rgb.size
    short = min(width, height)
    if short != size:
        width, height = (
            size if side == short else int(size * side / short)
            for side in (width, height)
        )
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(rgb.crop((left, top, left + size, top + size)), np.uint8)


def show_o_scale(image: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> float32 in [-1, 1]: (x / 255 - 0.5) / 0.5 in single."""
    unit = image.astype(np.float32) / np.float32(255)
    return (unit - np.float32(0.5)) / np.float32(0.5)


def chameleon_picture(picture: Image.Image, size: int = CHAMELEON_SIZE) -> np.ndarray:
    """Transparency onto white, short side to `size`, Lanczos, and the centre.

    As in facebookresearch/chameleon, inference/image_tokenizer.py.

    Args:
      picture: any 8-bit picture.
      size: 512 for the released models.

    Returns:
      uint8 [size, size, 3].

    Raises:
      DataError: if the picture's mode or size cannot be used.
    """
    rgb = _onto_white(_checked(picture))
    scale = size / min(rgb.size)
    width, height = (round(scale * side) for side in rgb.size)
    rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(rgb.crop((left, top, left + size, top + size)), np.uint8)


def chameleon_scale(image: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> float32 in [-1, 1]: x / 255 * 2 - 1 in double."""
    return (image / 255.0 * 2 - 1).astype(np.float32)


def emu3_picture(
    picture: Image.Image,
    fewest: int = EMU3_PIXELS[0],
    most: int = EMU3_PIXELS[1],
) -> np.ndarray:
    """Bicubic to the nearest size of whole codes that has neither few nor many pixels.

    As in baaivision/Emu3, emu3/tokenizer/image_processing_emu3visionvq.py; transparency
    is dropped, not put onto white, as in its emu3/train/prepare_data.py.

    Args:
      picture: any 8-bit picture.
      fewest: pixels at least.
      most: pixels at most.

    Returns:
      uint8 [height, width, 3], both divisible by 8.

    Raises:
      DataError: if the picture's mode or size cannot be used.
    """
    rgb = _checked(picture).convert("RGB")
    height, width = emu3_size(rgb.height, rgb.width, fewest, most)
    return np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC), np.uint8)


def emu3_scale(image: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> float32 in [-1, 1]: x * (1 / 255) in double, then in single."""
    unit = (image.astype(np.float64) * (1 / 255)).astype(np.float32)
    return (unit - np.float32(0.5)) / np.float32(0.5)


def emu3_size(height: int, width: int, fewest: int, most: int) -> tuple[int, int]:
    """Height and width that an image is brought to.

    Raises:
      DataError: for a side below 8 pixels, or one more than five times the other.
    """
    factor, aspect = EMU3_FACTOR, max(height, width) / max(min(height, width), 1)
    if min(height, width) < factor or aspect > _EMU3_LARGEST_ASPECT:
        raise DataError(
            f"a picture of {width} x {height} pixels cannot be used; crop or scale it "
            f"so that both sides have at least {factor} pixels and neither is more "
            f"than {_EMU3_LARGEST_ASPECT} times the other."
        )
    new = [round(side / factor) * factor for side in (height, width)]
    if math.prod(new) > most:
        shrink = math.sqrt(height * width / most)
        new = [math.floor(side / shrink / factor) * factor for side in (height, width)]
    elif math.prod(new) < fewest:
        grow = math.sqrt(fewest / (height * width))
        new = [math.ceil(side * grow / factor) * factor for side in (height, width)]
    return new[0], new[1]


def _onto_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    rgba = np.asarray(picture.convert("RGBA"))
    if rgba[:, :, 3].min() == 255:
        return picture.convert("RGB")
    opacity = rgba[:, :, 3:] / 255.0
    blended = (1 - opacity) * 255 + opacity * rgba[:, :, :3]
    return Image.fromarray(blended.astype(np.uint8))


def _checked(picture: Image.Image) -> Image.Image:
    """The picture, if it has 8 bits a channel and at least one pixel."""
    if picture.mode not in _MODES:
        raise DataError(
            f"a picture of mode {picture.mode!r} cannot be used; save it as an 8-bit "
            "grey or RGB image."
        )
    if not min(picture.size):
        width, height = picture.size
        raise DataError(
            f"a picture of {width} x {height} pixels cannot be used; give one that "
            "has at least one pixel."
        )
    return picture
