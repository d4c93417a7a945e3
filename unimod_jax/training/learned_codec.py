"""A run's image codec: grey levels, or the learned tokenizer that lies beside it.

The arithmetic around the network is that of each release: how a picture is scaled and
cropped, and how bytes become real values.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unimod_jax.convert.image_tokenizer_files import (
    CHAMELEON_VQGAN,
    MAGVIT_V2,
    MOVQGAN,
    read_image_tokenizer,
)
from unimod_jax.data import (
    DataConfig,
    DataError,
    GreyLevels,
    ImageCodec,
    LearnedCodec,
    Record,
    with_codes,
)
from unimod_jax.data.released import pixels
from unimod_jax.training.run_directory import RunDirectory

_AT_ONCE = 8
"""Images that pass a tokenizer together."""

_SCALE: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    MAGVIT_V2: pixels.show_o_scale,
    CHAMELEON_VQGAN: pixels.chameleon_scale,
    MOVQGAN: pixels.emu3_scale,
}


def _emu3_picture(picture: Image.Image, size: int) -> np.ndarray:
    """Emu3's pictures keep their shape; rows here have one shape, so the centre."""
    width, height = picture.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    square = picture.crop((left, top, left + short, top + short))
    return pixels.emu3_picture(square, size * size, size * size)


_PICTURE: Mapping[str, Callable[[Image.Image, int], np.ndarray]] = {
    MAGVIT_V2: pixels.show_o_picture,
    CHAMELEON_VQGAN: pixels.chameleon_picture,
    MOVQGAN: _emu3_picture,
}


def open_codec(run: RunDirectory, data: DataConfig) -> ImageCodec:
    """How a run's images become codes: by its learned tokenizer, or as grey levels.

    Args:
      run: its directory.
      data: its data.

    Raises:
      ConversionError: for files that cannot be read.
      DataError: if the tokenizer is not that of the data's codes.
    """
    if not data.code_size:
        return GreyLevels(data)
    published, params = read_image_tokenizer(run.image_tokenizer)
    tokenizer, side = published.tokenizer, data.image_size
    if tokenizer.downsampling != data.code_size:
        raise DataError(
            f"data.code_size is {data.code_size}, but a code of the image tokenizer in "
            f"{run.image_tokenizer} stands for {tokenizer.downsampling} pixels along "
            "a side; set it to that."
        )
    encode, decode = jax.jit(tokenizer.encode), jax.jit(tokenizer.decode)
    height, width = tokenizer.grid_of(side, side)
    return LearnedCodec(
        lambda picture: _PICTURE[published.kind](picture, side),
        _SCALE[published.kind],
        lambda pixel_BYXC: encode(params, jnp.asarray(pixel_BYXC)),
        functools.partial(decode, params) if published.can_draw else _cannot_draw,
        height,
        width,
    )


def _cannot_draw(code_BYX: np.ndarray) -> np.ndarray:
    raise DataError(
        f"{len(code_BYX)} images were to be drawn, but this image tokenizer was "
        "published without its decoder (transformers' Chameleon); convert with "
        "--image-tokenizer and the original one, saved as safetensors."
    )


def coded(
    records: Sequence[Record], codec: ImageCodec, data: DataConfig
) -> Sequence[Record]:
    """Records with the codes of their images, where a learned tokenizer makes them.

    All images pass the network here, before the first step, and their codes stay in
    memory; grey levels are made when they are needed, and the records come back as
    they are.
    """
    return with_codes(records, codec, _AT_ONCE) if data.code_size else records
