"""The noise schedule, the noised rows and the loss of the predicted noise."""

import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.models.tiny_model import PATCH_SIZE, SIZES, random_batch, tiny_spec
from unimod_jax.models import GroupOutput
from unimod_jax.models.embedding import read_patches
from unimod_jax.objectives import (
    IMAGE_TO_TEXT,
    TEXT_ONLY,
    TEXT_TO_IMAGE,
    ImageDiffusion,
)
from unimod_jax.objectives.image_diffusion import (
    add_noise,
    noise_loss,
    noise_patches,
    signal_share,
)

NUM_ROWS = 64


@pytest.fixture(scope="module", params=[(), None], ids=["one stream", "two streams"])
def batch(request):
    towers = {} if request.param is None else {"untied": request.param}
    spec = tiny_spec(patch_size=PATCH_SIZE, **towers)
    return random_batch(ImageDiffusion(), spec, NUM_ROWS)


@pytest.fixture(scope="module")
def corrupted(batch):
    return ImageDiffusion().corrupt(batch, jax.random.key(0))


def perfect(group, noise_BNP):
    """An output that predicts the noise exactly, and garbage elsewhere."""
    patches = {}
    for name in group.streams:
        index_BT = group.streams[name].patch_index_BT
        if any(s.continuous for s in group.layout.segments_of(name)):
            told_BTP = read_patches(noise_BNP, index_BT)
            patches[name] = jnp.where((index_BT >= 0)[..., None], told_BTP, 1e3)
    return GroupOutput({}, patches)


def test_the_schedule_falls_from_all_signal_to_almost_none():
    share = np.asarray(signal_share(jnp.linspace(0.0, 1.0, 1001)))
    assert share[0] == 1.0
    assert (np.diff(share) <= 0).all()
    assert (np.diff(share)[:990] < 0).all()
    assert 0 < share[-1] < 1e-3


@hypothesis.given(st.floats(0.0, 0.95))
def test_the_schedule_is_nichol_and_dhariwals_cosine(time):
    def angle(t):
        return (t + 0.008) / 1.008 * np.pi / 2

    expected = (np.cos(angle(time)) / np.cos(angle(0.0))) ** 2
    np.testing.assert_allclose(signal_share(jnp.float32(time)), expected, rtol=1e-4)


def test_noise_keeps_the_variance_of_unit_data():
    clean, noise = jax.random.normal(jax.random.key(0), (2, 20_000))
    noised = add_noise(clean, noise, jnp.float32(0.3))
    assert abs(float(jnp.var(noised)) - 1) < 0.05
    np.testing.assert_array_equal(add_noise(clean, noise, jnp.float32(1.0)), clean)


def test_rows_are_their_patches_noised_at_their_own_time(batch, corrupted):
    seen, noise = corrupted
    for task in (TEXT_TO_IMAGE, IMAGE_TO_TEXT):
        share_B = np.asarray(signal_share(seen[task].patch_time_B))[:, None, None]
        expected = (
            np.sqrt(share_B) * batch[task].patch_BNP
            + np.sqrt(1 - share_B) * noise[task]
        )
        np.testing.assert_allclose(seen[task].patch_BNP, expected, atol=1e-5)
        assert noise[task].shape == (NUM_ROWS, SIZES.image_patches, PATCH_SIZE)
        assert abs(float(jnp.std(noise[task])) - 1) < 0.1
    assert not np.array_equal(noise[TEXT_TO_IMAGE], noise[IMAGE_TO_TEXT])


def test_images_before_their_caption_are_noised_half_way_at_most(corrupted):
    seen, _ = corrupted
    free = np.asarray(seen[TEXT_TO_IMAGE].patch_time_B)
    capped = np.asarray(seen[IMAGE_TO_TEXT].patch_time_B)
    assert free.min() > 0
    assert 0.9 < free.max() <= 1.0
    assert capped.min() > 0
    assert 0.4 < capped.max() <= 0.5
    assert abs(free.mean() - 0.5) < 0.1
    assert abs(capped.mean() - 0.25) < 0.05


def test_the_time_cap_may_be_chosen(batch):
    noised, _ = noise_patches(batch[TEXT_TO_IMAGE], jax.random.key(1), 0.1)
    assert 0.08 < float(noised.patch_time_B.max()) <= 0.1


def test_text_only_rows_are_untouched_and_have_no_noise(batch, corrupted):
    seen, noise = corrupted
    assert seen[TEXT_ONLY] is batch[TEXT_ONLY]
    assert set(noise) == {TEXT_TO_IMAGE, IMAGE_TO_TEXT}


def test_perfect_prediction_has_no_loss(corrupted):
    seen, noise = corrupted
    group, noise_BNP = seen[TEXT_TO_IMAGE], noise[TEXT_TO_IMAGE]
    assert noise_loss(group, perfect(group, noise_BNP), noise_BNP) == 0.0


def test_the_loss_is_the_mean_squared_error_over_all_values(corrupted):
    seen, noise = corrupted
    group, noise_BNP = seen[TEXT_TO_IMAGE], noise[TEXT_TO_IMAGE]
    wrong_BNP = jax.random.normal(jax.random.key(5), noise_BNP.shape)
    loss = noise_loss(group, perfect(group, wrong_BNP), noise_BNP)
    expected = np.mean((np.asarray(wrong_BNP) - np.asarray(noise_BNP)) ** 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_diffusion_is_weighted_beside_text(corrupted):
    seen, noise = corrupted
    group, noise_BNP = seen[TEXT_TO_IMAGE], noise[TEXT_TO_IMAGE]
    logits = {
        name: jnp.zeros((*stream.position_BT.shape, 24))
        for name, stream in group.streams.items()
    }
    output = dataclasses.replace(
        perfect(group, jnp.zeros_like(noise_BNP)), logits=logits
    )
    loss, metrics = ImageDiffusion(diffusion_weight=5.0).task_loss(
        group, output, noise_BNP
    )
    np.testing.assert_allclose(metrics["text_loss"], np.log(24), rtol=1e-5)
    np.testing.assert_allclose(metrics["image_loss"], np.mean(noise_BNP**2), rtol=1e-5)
    expected = metrics["text_loss"] + 5.0 * metrics["image_loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    without, metrics = ImageDiffusion().task_loss(group, output, None)
    np.testing.assert_allclose(without, np.log(24), rtol=1e-5)
    assert "image_loss" not in metrics
