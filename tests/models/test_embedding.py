"""What a token enters as: its id, its place in the raster, its patch and its noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unimod_jax.layout import TokenStream
from unimod_jax.models.embedding import (
    TokenEmbedding,
    read_patches,
    time_features,
    write_patches,
)

WIDTH, PATCH_SIZE = 4, 3
EMBEDDING = TokenEmbedding(8, WIDTH, 2, PATCH_SIZE, jnp.dtype("float32"))
# A text token, then patches 1 and 0, a text token, and patches 2 and 3.
PATCH_INDEX = jnp.asarray([[-1, 1, 0, -1, 2, 3]], jnp.int32)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = {
        "table": (8, WIDTH),
        "image_position": (2, WIDTH),
        "patch": (PATCH_SIZE, WIDTH),
        "time": (32, WIDTH),
    }
    return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def stream_of(token_id):
    token_id_BT = jnp.asarray([token_id], jnp.int32)
    unused = jnp.zeros_like(token_id_BT)
    return TokenStream(*([token_id_BT] + [unused] * 6), PATCH_INDEX)


def test_patches_are_read_by_the_tokens_that_are_patches():
    patch_BNP = jnp.arange(8.0).reshape(1, 4, 2)
    expected = [[0, 0], [2, 3], [0, 1], [0, 0], [4, 5], [6, 7]]
    np.testing.assert_array_equal(read_patches(patch_BNP, PATCH_INDEX)[0], expected)


def test_writing_patches_is_the_inverse_of_reading_them():
    patch_BNP = jax.random.normal(jax.random.key(0), (2, 4, 3))
    index_BT = jnp.concatenate([PATCH_INDEX, PATCH_INDEX[:, ::-1]])
    token_BTP = read_patches(patch_BNP, index_BT)
    np.testing.assert_array_equal(write_patches(token_BTP, index_BT, 4), patch_BNP)


def test_a_token_is_its_row_of_the_table_its_place_its_patch_and_its_noise(params):
    token_id = [5, 0, 0, 6, 0, 0]
    patches = np.random.default_rng(1).normal(size=(1, 4, PATCH_SIZE))
    # Two images of two patches, noised differently.
    time_BN = jnp.asarray([[0.3, 0.3, 0.8, 0.8]])
    embedded = EMBEDDING.apply(
        {"params": params},
        stream_of(token_id),
        jnp.asarray(patches, jnp.float32),
        time_BN,
    )
    time_ND = np.asarray(time_features(time_BN))[0] @ params["time"]
    expected = params["table"][token_id]
    for slot, patch in enumerate(np.asarray(PATCH_INDEX[0])):
        if patch >= 0:
            # The place counts within the image.
            place_D = params["image_position"][patch % 2]
            expected[slot] += place_D + patches[0, patch] @ params["patch"]
            expected[slot] += time_ND[patch]
    np.testing.assert_allclose(embedded[0], expected, rtol=1e-4, atol=1e-5)


def test_rows_without_patches_enter_by_their_ids_alone(params):
    no_patches = jnp.zeros((1, 0, PATCH_SIZE))
    embedded = EMBEDDING.apply(
        {"params": params}, stream_of([5] * 6), no_patches, jnp.ones((1, 0))
    )
    np.testing.assert_array_equal(embedded[0, 0], params["table"][5])
    np.testing.assert_allclose(
        embedded[0, 1], params["table"][5] + params["image_position"][1], rtol=1e-6
    )


def test_noise_times_are_told_apart_everywhere_on_the_schedule():
    features = np.asarray(time_features(jnp.linspace(0.0, 1.0, 101)[None]))[0]
    assert features.shape == (101, 32)
    assert np.abs(features).max() <= 1.0
    assert np.linalg.norm(np.diff(features, axis=0), axis=1).min() > 0.1
