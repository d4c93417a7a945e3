"""Weights of tiny checkpoints, drawn from their names, so that no file must hold them.

Both the reference models (`make_image_tokenizers.py`) and the tests draw them here. The
generator is RandomState, whose stream NumPy has frozen.
"""

import zlib

import numpy as np

GAIN = 1.5
"""Kernels make up for what activations take, so that latents depend on the image."""
BLOCK = 4


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a checkpoint; nothing in it is left at 0 or 1.

    Variances are positive, and so is the count of batches, int64; all else is float32.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.asarray(random.randint(1, 1000), np.int64)
    value = random.standard_normal(shape)
    if name.endswith("running_var"):
        value = 0.5 + np.square(value)
    elif len(shape) > 1 and "embedding" not in name:
        value = GAIN * value / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight") and len(shape) == 1:
        value = 1 + 0.2 * value
    elif len(shape) == 1:
        value = 0.1 * value
    return value.astype(np.float32)


def random_images(shape: tuple[int, ...]) -> np.ndarray:
    """Noise over blocks of 4 x 4, float32 [images, rows, columns, channels] in [-1, 1].

    Noise alone looks the same everywhere to an encoder that averages.
    """
    random = np.random.RandomState(zlib.crc32(str(shape).encode()))
    images, rows, columns, channels = shape
    block = random.uniform(-1, 1, (images, rows // BLOCK, columns // BLOCK, channels))
    noise = random.uniform(-1, 1, shape)
    coarse = block.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)
    return (0.7 * coarse + 0.3 * noise).astype(np.float32)
