"""The tiny tokenizers of `tests/golden/make_image_tokenizers.py`, and their weights."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from tests.golden.random_tensors import random_tensor
from unimod_jax.convert import WeightMap, chameleon_vqgan, magvit_v2, movqgan
from unimod_jax.image_tokenizers import (
    AutoencoderKl,
    AutoencoderKlConfig,
    ChameleonVqganConfig,
    ImageTokenizer,
    Ladder,
    MagvitV2Config,
    MovqganConfig,
    chameleon_vqgan_tokenizer,
    magvit_v2_tokenizer,
    movqgan_tokenizer,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "image_tokenizers"
SIZES = ((2, 16, 16), (1, 24, 8))

CHAMELEON = ChameleonVqganConfig((32, 32, 64), 1, 8, 6, 64)
MAGVIT = MagvitV2Config(
    Ladder((32, 64, 64), (2, 1, 2)), Ladder((32, 32, 64), (1, 2, 1)), 5
)
MOVQGAN = MovqganConfig((32, 64), 1, (1,), num_codes=256)
VAE = AutoencoderKlConfig((32, 64, 64), 1)


@dataclasses.dataclass(frozen=True)
class Published:
    """A tokenizer and how its files name things.

    Attributes:
      tokenizer: of tiny sizes.
      weight_map: of a configuration, or of the release's sizes.
      config: the tiny sizes.
      derived: the names and shapes of the full-size file's other tensors.
    """

    tokenizer: ImageTokenizer
    weight_map: Callable[..., WeightMap]
    config: Any
    derived: Callable[[], Mapping[str, np.ndarray]] = dict


TOKENIZERS = {
    "chameleon_vqgan": Published(
        chameleon_vqgan_tokenizer(CHAMELEON), chameleon_vqgan.weight_map, CHAMELEON
    ),
    "magvit_v2": Published(
        magvit_v2_tokenizer(MAGVIT),
        magvit_v2.weight_map,
        MAGVIT,
        magvit_v2.derived_tensors,
    ),
    "movqgan": Published(movqgan_tokenizer(MOVQGAN), movqgan.weight_map, MOVQGAN),
    "movqgan_transformers": Published(
        movqgan_tokenizer(MOVQGAN),
        lambda config=None: movqgan.weight_map(config, movqgan.TRANSFORMERS),
        MOVQGAN,
    ),
}
AUTOENCODER = AutoencoderKl(VAE)


def golden_arrays(name: str) -> dict[str, np.ndarray]:
    """What the reference made of `random_images`."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def golden_parameters(weight_map: WeightMap) -> dict[str, Any]:
    """The weights of the tiny reference, read through a weight map."""
    flat = {}
    for path, tensor in weight_map.items():
        theirs = random_tensor(tensor.name, tensor.shape)
        flat[path] = jnp.asarray(tensor.rearrangement.to_ours(theirs))
    return flax.traverse_util.unflatten_dict(flat)


@functools.cache
def tiny_parameters(name: str) -> dict[str, Any]:
    """The weights of the tiny reference of that name."""
    published = TOKENIZERS[name]
    return golden_parameters(published.weight_map(published.config))


type Stages = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


def tiny_stages(name: str) -> Stages:
    """Of parameters, images, codes: latents, codes of the images, images of the codes.

    One program, compiled once for each shape.
    """
    return _stages(TOKENIZERS[name].tokenizer)


@functools.cache
def _stages(tokenizer: ImageTokenizer) -> Stages:
    def stages(params, image, code):
        return (
            tokenizer.latent(params, image),
            tokenizer.encode(params, image),
            tokenizer.decode(params, code),
        )

    return jax.jit(stages)
