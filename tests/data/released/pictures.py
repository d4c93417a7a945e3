"""Pictures of several modes and sizes, made from a seed."""

import numpy as np
from PIL import Image

SIZE = 16
"""What Show-o's and Chameleon's pictures are brought to."""

EMU3_RANGE = (20 * 20, 28 * 28)
"""Fewest and most pixels that Emu3's pictures are brought to."""

_SIZES = {
    "tall": (21, 37),
    "wide": (53, 18),
    "odd_crop": (23, 16),
    "square": (16, 16),
    "large": (64, 48),
}


def pictures() -> dict[str, Image.Image]:
    """Name -> picture, the same every time; smooth, with some noise."""
    rng = np.random.default_rng(0)
    made = {}
    for name, (width, height) in _SIZES.items():
        made[name] = Image.fromarray(_values(width, height, 3, rng))
    made["grey"] = Image.fromarray(_values(25, 20, 1, rng)[:, :, 0])
    made["palette"] = made["tall"].quantize(12)
    made["transparent"] = Image.fromarray(_values(30, 22, 4, rng))
    return made


def _values(width, height, channels, rng) -> np.ndarray:
    row, column = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, channels)
    waves = np.sin(row[..., None] / 4 + phase) + np.cos(column[..., None] / 6 - phase)
    noise = rng.normal(0, 20, (height, width, channels))
    return np.clip(128 + 60 * waves + noise, 0, 255).astype(np.uint8)
