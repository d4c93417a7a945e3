"""The tables against the published sizes: every tensor, its shape and its dtype."""

import jax
import numpy as np
import pytest

from tests.golden.random_tensors import random_tensor
from tests.image_tokenizers.tiny_tokenizers import GOLDEN, TOKENIZERS, Published
from unimod_jax.convert import autoencoder_kl, chameleon_vqgan
from unimod_jax.image_tokenizers import (
    AutoencoderKl,
    chameleon_vqgan_tokenizer,
    magvit_v2_tokenizer,
    movqgan_tokenizer,
)

PUBLISHED = {
    **TOKENIZERS,
    "autoencoder_kl": Published(None, autoencoder_kl.weight_map, None),
    "chameleon_vqgan_transformers": Published(
        None, chameleon_vqgan.encoder_weight_map, None
    ),
}


def listed_tensors(name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> dtype and shape, of the reference of the published size."""
    lines = (GOLDEN / f"{name}.tensors.txt").read_text().splitlines()
    words = [line.split() for line in lines]
    return {key: (dtype, tuple(map(int, shape))) for key, dtype, *shape in words}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_of_the_published_size_has_its_place(name: str):
    published = PUBLISHED[name]
    weight_map = published.weight_map()
    ours = [(tensor.name, tensor.shape) for tensor in weight_map.values()]
    ours += [(key, value.shape) for key, value in published.derived().items()]
    theirs = [(key, shape) for key, (_, shape) in listed_tensors(name).items()]
    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_tensor_read_and_written_is_unchanged(name: str):
    published = PUBLISHED[name]
    dtypes = {key: dtype for key, (dtype, _) in listed_tensors(name).items()}
    for tensor in published.weight_map().values():
        small = tuple(min(side, 3 + axis) for axis, side in enumerate(tensor.shape))
        theirs = random_tensor(tensor.name, small)
        ours = tensor.rearrangement.to_ours(theirs)
        back = tensor.rearrangement.to_theirs(ours)
        np.testing.assert_array_equal(back, theirs)
        assert back.dtype == dtypes[tensor.name]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_read_has_the_shapes_of_the_parameters(name: str):
    published = TOKENIZERS[name]
    shapes = jax.tree.leaves_with_path(published.tokenizer.parameter_shapes())
    weight_map = published.weight_map(published.config)
    assert len(shapes) == len(weight_map)
    for path, leaf in shapes:
        tensor = weight_map[tuple(key.key for key in path)]
        read = tensor.rearrangement.to_ours(random_tensor(tensor.name, tensor.shape))
        assert (read.shape, read.dtype) == (leaf.shape, leaf.dtype)


@pytest.mark.parametrize(
    ("tokenizer", "count"),
    [
        # PyTorch's counts of parameters; Emu3's has eight BatchNorms of four channels,
        # each with two statistics and a count of batches beside them.
        (chameleon_vqgan_tokenizer(), 68_718_467),
        (magvit_v2_tokenizer(), 95_387_004),
        (movqgan_tokenizer(), 270_740_287 + 8 * (4 + 4 + 1)),
        (AutoencoderKl(), 83_653_863),
    ],
)
def test_the_defaults_have_the_published_number_of_parameters(tokenizer, count: int):
    leaves = jax.tree.leaves(tokenizer.parameter_shapes())
    assert sum(leaf.size for leaf in leaves) == count


def test_older_vae_files_name_attention_differently():
    weight_map = autoencoder_kl.weight_map(None, autoencoder_kl.OLDER_NAMES)
    names = {tensor.name for tensor in weight_map.values()}
    middle = "encoder.mid_block.attentions.0"
    assert {
        f"{middle}.{part}.{leaf}"
        for part in ("group_norm", "query", "key", "value", "proj_attn")
        for leaf in ("weight", "bias")
    } == {name for name in names if name.startswith(middle)}
