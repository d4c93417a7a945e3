"""Brings an image of any size to the model's square: scale, then crop the centre."""

import numpy as np


def fit_to_square(image: np.ndarray, image_size: int) -> np.ndarray:
    """Bicubic resize of the shorter side to `image_size`, then a centre crop.

    Args:
      image: uint8 [height, width, channels], 1 or 3 channels, no side empty.
      image_size: side of the result, in pixels.

    Returns:
      uint8 [image_size, image_size, channels].
    """
    from PIL import Image

    height, width, channels = image.shape
    scale = image_size / min(height, width)
    new_width = max(image_size, round(width * scale))
    new_height = max(image_size, round(height * scale))
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    picture = picture.resize((new_width, new_height), Image.Resampling.BICUBIC)
    left = (new_width - image_size) // 2
    top = (new_height - image_size) // 2
    picture = picture.crop((left, top, left + image_size, top + image_size))
    return np.asarray(picture, np.uint8).reshape(image_size, image_size, channels)
