"""Small images as PNG: a grid for a file, and data URIs for a page.

Pixels stay pixels: enlarging repeats them, and pages are asked not to smooth them.
"""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unimod_jax.training import RunError

_WHITE = 255


def image_grid(images: np.ndarray, columns: int, scale: int, gap: int) -> np.ndarray:
    """Images side by side, enlarged without smoothing, with white gaps between them.

    Args:
      images: uint8 [n, height, width, channels], n at least 1.
      columns: images per row.
      scale: how many pixels wide each pixel becomes.
      gap: white pixels between images.

    Returns:
      uint8 [height, width, channels].
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    enlarged = images.repeat(scale, axis=1).repeat(scale, axis=2)
    _, height, width, channels = enlarged.shape
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    grid = np.full(shape, _WHITE, np.uint8)
    for index, image in enumerate(enlarged):
        top = index // columns * (height + gap)
        left = index % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def png_bytes(image: np.ndarray) -> bytes:
    """A uint8 [height, width, 1 or 3] image as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(image: np.ndarray) -> str:
    """A uint8 [height, width, 1 or 3] image as a PNG data URI."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()


def check_writable(path: Path, what: str) -> None:
    """Refuses a file that cannot be written, before anything is computed for it.

    Args:
      path: of the file.
      what: it will be, for the message.

    Raises:
      RunError: saying why.
    """
    folder = path.parent
    if path.is_dir():
        why = "is a directory; name a file in it"
    elif not folder.is_dir():
        why = f"is in {folder}, which does not exist; make it, or name another file"
    elif not os.access(folder, os.W_OK):
        why = f"is in {folder}, which is write-protected; name another file"
    else:
        return
    raise RunError(f"{what} cannot be written: {path} {why}.")


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes a PNG whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_bytes(png_bytes(image))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def heat_image(values: np.ndarray, ramp: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Values in [0, 1], [height, width], as uint8 RGB colours of a ramp."""
    stops = np.linspace(0.0, 1.0, len(ramp))
    channels = [
        np.interp(values, stops, [color[channel] for color in ramp])
        for channel in range(3)
    ]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
