"""An autoencoder is read from its published files alone."""

import jax
import numpy as np
import pytest

from tests.golden.random_tensors import random_tensor
from tests.image_tokenizers.tiny_tokenizers import VAE, golden_parameters
from unimod_jax.convert import (
    ConversionError,
    autoencoder_kl,
    new_manifest,
    write_files,
)
from unimod_jax.convert.autoencoder_kl import NAMES, OLDER_NAMES, read_autoencoder


def publish(folder, names, without=""):
    """The tiny autoencoder in a folder, in the published layout."""
    table = autoencoder_kl.weight_map(VAE, names)
    tensors = {
        tensor.name: random_tensor(tensor.name, tensor.shape)
        for tensor in table.values()
        if not without or without not in tensor.name
    }
    shapes = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    values = {name: lambda n=name: tensors[n] for name in tensors}
    write_files(new_manifest(shapes), folder, values)
    return folder


@pytest.mark.parametrize("names", [NAMES, OLDER_NAMES], ids=["new", "older"])
def test_sizes_and_names_are_read_off_the_tensors(tmp_path, names):
    autoencoder, params = read_autoencoder(publish(tmp_path / "vae", names))
    assert autoencoder.config == VAE
    wanted = golden_parameters(autoencoder_kl.weight_map(VAE, names))
    jax.tree.map(np.testing.assert_array_equal, params, wanted)


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("post_quant_conv", "holds no autoencoder"),
        ("down_blocks.1.resnets.0.conv1.weight", "holds no autoencoder"),
        ("decoder.conv_in.bias", "decoder.conv_in.bias"),
    ],
)
def test_files_that_are_not_whole_are_refused(tmp_path, without, words):
    folder = publish(tmp_path / "vae", NAMES, without)
    with pytest.raises(ConversionError, match=words):
        read_autoencoder(folder)
