"""A run's image codec: grey levels, or the learned tokenizer that lies beside it.

The arithmetic around the network is that of each release: how a picture is scaled and
cropped, and how bytes become real values.

Training reads codes from disk, where the first run that needs them has put them
(`coded_split`, `data.stored_codes`); evaluation needs few, and makes them (`coded`).
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unimod_jax.convert.autoencoder_kl import read_autoencoder
from unimod_jax.convert.image_tokenizer_files import (
    CHAMELEON_VQGAN,
    MAGVIT_V2,
    MOVQGAN,
    read_image_tokenizer,
)
from unimod_jax.data import (
    CodedRecords,
    DataConfig,
    DataError,
    GreyLevels,
    ImageCodec,
    LearnedCodec,
    LearnedLatents,
    Record,
    SplitRecords,
    StoredCodes,
    codes_folder,
    first_images,
    make_parts,
    with_codes,
)
from unimod_jax.data.released import pixels
from unimod_jax.training.endings import Preempted
from unimod_jax.training.processes import ALONE, Processes
from unimod_jax.training.run_directory import RunDirectory

logger = logging.getLogger(__name__)

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

    With `data.latent_channels`, they become latents of its learned autoencoder.

    Args:
      run: its directory.
      data: its data.

    Raises:
      ConversionError: for files that cannot be read.
      DataError: if the tokenizer is not that of the data's codes.
    """
    if not data.code_size:
        return GreyLevels(data)
    check_tokenizer_is_there(run, data)
    if data.latent_channels:
        return _open_autoencoder(run, data)
    published, params = read_image_tokenizer(run.image_tokenizer)
    tokenizer, side = published.tokenizer, data.image_size
    _check_downsampling(tokenizer.downsampling, run, data)
    _check_made("image_levels", tokenizer.num_codes, run, data)
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


def check_tokenizer_is_there(run: RunDirectory, data: DataConfig) -> None:
    """Refuses data of learned codes for a run that has no image tokenizer.

    Raises:
      DataError: saying how to give it one.
    """
    if data.code_size and not run.image_tokenizer.exists():
        raise DataError(
            f"data.code_size is {data.code_size}, but {run.path} has no learned image "
            "tokenizer; start the run with --image-tokenizer and the folder of its "
            "published files, or with --start-from and a converted model."
        )


def _open_autoencoder(run: RunDirectory, data: DataConfig) -> LearnedLatents:
    autoencoder, params = read_autoencoder(run.image_tokenizer)
    _check_downsampling(autoencoder.downsampling, run, data)
    _check_made("latent_channels", autoencoder.config.latent_channels, run, data)
    # Means: a sample of each image's latents would be the same one in every epoch.
    encode = jax.jit(lambda *given: autoencoder.encode(*given).mean_BYXZ)
    return LearnedLatents(
        data,
        lambda pixel_BYXC: encode(params, jnp.asarray(pixel_BYXC)),
        functools.partial(jax.jit(autoencoder.decode), params),
    )


def _check_downsampling(pixels: int, run: RunDirectory, data: DataConfig) -> None:
    if pixels != data.code_size:
        raise DataError(
            f"data.code_size is {data.code_size}, but a code of the image tokenizer in "
            f"{run.image_tokenizer} stands for {pixels} pixels along a side; set it to "
            "that."
        )


def _check_made(field: str, made: int, run: RunDirectory, data: DataConfig) -> None:
    """Refuses data that count other codes, or channels, than the tokenizer makes."""
    if getattr(data, field) != made or data.image_channels != 3:
        raise DataError(
            f"data.{field} is {getattr(data, field)} and data.image_channels "
            f"{data.image_channels}, but the image tokenizer in {run.image_tokenizer} "
            f"has {made} and reads RGB; set them to {made} and 3."
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
    """A few records with the codes of their images, made now and kept in memory.

    Grey levels are made when they are needed: then the records come back as they are.
    """
    if not data.code_size:
        return records
    return with_codes(records, codec)


def coded_split(
    records: SplitRecords,
    codec: ImageCodec,
    data: DataConfig,
    run: RunDirectory,
    *,
    processes: Processes = ALONE,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> Sequence[Record]:
    """A split's records with the codes of their images, however many there are.

    Codes that are not on disk yet are made by all processes together, before any of
    them goes on. Grey levels need none of it.

    Args:
      records: the whole split.
      codec: of the run.
      data: where codes are kept.
      run: its directory, with the image tokenizer.
      processes: of the run; all call this.
      told_to_stop: asked after each part, on a process that is alone.

    Raises:
      DataError: if codes cannot be written, or cannot be read.
      Preempted: if told to stop before all codes were there.
    """
    if not data.code_size:
        return records
    folder = codes_folder(records, run.image_tokenizer, data)
    firsts = first_images(records)
    stored = StoredCodes(folder, int(firsts[-1]), data)
    missing = processes.gather("image codes that are missing", stored.missing())[0]
    if missing:
        logger.info("image codes: %d parts are to be made in %s", len(missing), folder)

    def meet(num_left: int) -> None:
        processes.gather(f"image codes, {num_left} parts left")
        done = stored.num_parts - num_left
        logger.info("image codes: part %d of %d", done, stored.num_parts)
        if num_left and processes.count == 1 and told_to_stop():
            raise Preempted(
                f"the run was told to stop with {done} of {stored.num_parts} parts of "
                "its image codes made; run the same command again to go on."
            )

    make_parts(
        missing,
        lambda part: stored.make(part, records, firsts, codec),
        meet,
        process_index=processes.index,
        process_count=processes.count,
    )
    stored.check()
    return CodedRecords(records, stored, firsts)
