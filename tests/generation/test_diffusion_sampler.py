"""Denoising with an oracle that knows the image."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generation.recorded_model import record
from tests.models.known_output import output_with
from tests.models.tiny_model import PATCH_SIZE, SIZES, random_group
from tests.task_rows import layouts
from unimod_jax.generation import GuidedRows, denoise_patches
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    Stream,
    diffusion_tasks,
    rows_of_task,
    shared,
)
from unimod_jax.models.embedding import read_patches
from unimod_jax.objectives import ImageDiffusion
from unimod_jax.objectives.image_diffusion import signal_share

STREAM_CHOICES = {
    "one stream": (Stream.of(TEXT, IMAGE),),
    "two streams": (Stream.of(TEXT), Stream.of(IMAGE)),
}
NUM_ROWS = 2


def rows_of(streams, seed=0):
    layout = layouts(ImageDiffusion(), SIZES, streams)["text_to_image"]
    return random_group(layout, NUM_ROWS, seed)


def denoise(forward, guided, num_steps):
    return denoise_patches(forward, guided, "image", num_steps, jax.random.key(0))


def answer(group, noise_BNP):
    """Noise per token, and garbage for tokens that are no patches."""
    patches = {}
    for name, stream in group.streams.items():
        if group.layout.holds_patches(name):
            token_BTP = read_patches(noise_BNP, stream.patch_index_BT)
            is_patch_BT1 = (stream.patch_index_BT >= 0)[..., None]
            patches[name] = jnp.where(is_patch_BT1, token_BTP, 1e3)
    return output_with({}, patches)


def oracle_of(clean_BNP):
    """A model that says exactly which noise was added to the clean image."""

    def forward(group):
        share_BN1 = signal_share(group.patch_time_BN)[..., None]
        noise_BNP = group.patch_BNP - jnp.sqrt(share_BN1) * clean_BNP
        return answer(group, noise_BNP / jnp.sqrt(1.0 - share_BN1))

    return forward


@pytest.fixture(scope="module")
def clean_BNP():
    shape = (NUM_ROWS, SIZES.image_patches, PATCH_SIZE)
    return jax.random.uniform(jax.random.key(3), shape, minval=-0.9, maxval=0.9)


@pytest.mark.parametrize("streams", STREAM_CHOICES.values(), ids=STREAM_CHOICES)
@pytest.mark.parametrize("num_steps", [1, 10])
def test_an_oracle_denoiser_recovers_the_clean_image(streams, num_steps, clean_BNP):
    guided = GuidedRows(rows_of(streams))
    drawn = denoise(oracle_of(clean_BNP), guided, num_steps)
    np.testing.assert_allclose(drawn, clean_BNP, atol=2e-3)


def test_time_falls_from_one_in_equal_steps_and_patches_start_as_noise(clean_BNP):
    times, patches = [], []
    oracle = oracle_of(clean_BNP)

    def watched(group):
        record(times.append, group.patch_time_BN)
        record(patches.append, group.patch_BNP)
        return oracle(group)

    rows = rows_of(STREAM_CHOICES["two streams"])
    denoise(watched, GuidedRows(rows), 4)
    jax.effects_barrier()
    np.testing.assert_allclose(
        np.stack(times),
        np.broadcast_to(
            np.array([1.0, 0.75, 0.5, 0.25])[:, None, None],
            (4, NUM_ROWS, SIZES.image_patches),
        ),
    )
    assert 0.5 < np.std(patches[0]) < 1.5
    # What is denoised does not depend on the patches that came with the rows.
    assert not np.allclose(patches[0], rows.patch_BNP)


def test_patches_on_the_way_are_noised_as_in_training():
    # Ancestral sampling with the oracle: x_t ~ N(sqrt(share) * clean, 1 - share).
    steps = []
    clean_BNP = jnp.full((NUM_ROWS, 400, 4), 0.5)
    oracle = oracle_of(clean_BNP)

    def watched(group):
        record(lambda *seen: steps.append(seen), group.patch_BNP, group.patch_time_BN)
        return oracle(group)

    sizes = dataclasses.replace(SIZES, image_patches=400)
    layout = layouts(ImageDiffusion(), sizes, STREAM_CHOICES["two streams"])
    group = random_group(layout["text_to_image"], NUM_ROWS)
    rows = dataclasses.replace(group, patch_BNP=jnp.zeros_like(clean_BNP))
    denoise(watched, GuidedRows(rows), 6)
    jax.effects_barrier()
    assert len(steps) == 6
    shares = [float(signal_share(time_BN[0, 0])) for _, time_BN in steps]
    noises = [
        (np.asarray(patch_BNP) - np.sqrt(share) * 0.5) / np.sqrt(1 - share)
        for (patch_BNP, _), share in zip(steps, shares, strict=True)
    ]
    for noise in noises:
        assert abs(noise.mean()) < 0.1
        assert abs(noise.std() - 1) < 0.1
    # Noise is partly fresh at every step: as much stays as the forward process leaves.
    for (noisy, clearer), (share, next_share) in zip(
        itertools.pairwise(noises), itertools.pairwise(shares), strict=True
    ):
        correlation = np.corrcoef(noisy.ravel(), clearer.ravel())[0, 1]
        stays = share / next_share * (1 - next_share) / (1 - share)
        assert abs(correlation - np.sqrt(stays)) < 0.06


def test_other_images_of_a_row_stay_as_they_are_and_clean():
    streams, seen = STREAM_CHOICES["two streams"], []
    (task,) = shared(diffusion_tasks(), text_to_image=1)
    image = next(piece for piece in task.pieces if piece.name == "image")
    given = dataclasses.replace(image, name="given", written=False)
    task = dataclasses.replace(task, pieces=(given, *task.pieces))
    sizes = dataclasses.replace(SIZES, continuous=True)
    rows = random_group(rows_of_task(task, sizes, streams), NUM_ROWS)
    clean_BNP = jnp.full_like(rows.patch_BNP, 0.5)
    oracle = oracle_of(clean_BNP)

    def watched(group):
        record(lambda *shown: seen.append(shown), group.patch_BNP, group.patch_time_BN)
        # No noise can be told from a clean image; what is said of one is not read.
        time_BN = jnp.maximum(group.patch_time_BN, 0.01)
        return oracle(dataclasses.replace(group, patch_time_BN=time_BN))

    drawn = denoise(watched, GuidedRows(rows), 2)
    jax.effects_barrier()
    before = slice(0, SIZES.image_patches)
    for patch_BNP, time_BN in seen:
        np.testing.assert_array_equal(patch_BNP[:, before], rows.patch_BNP[:, before])
        np.testing.assert_array_equal(time_BN[:, before], 0.0)
        assert (time_BN[:, SIZES.image_patches :] > 0.0).all()
    np.testing.assert_allclose(drawn, np.full(drawn.shape, 0.5), atol=2e-3)
    assert drawn.shape == (NUM_ROWS, SIZES.image_patches, PATCH_SIZE)


def test_an_unsure_denoiser_ends_within_the_range_of_patches():
    def forward(group):
        return answer(group, jnp.zeros_like(group.patch_BNP))

    guided = GuidedRows(rows_of(STREAM_CHOICES["two streams"]))
    drawn = denoise(forward, guided, 8)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn).max() <= 1.0 + 1e-5


def test_guidance_extrapolates_the_noise(clean_BNP):
    # Halfway between two oracles lies the image halfway between theirs.
    other_BNP = -clean_BNP
    both_BNP = jnp.concatenate([clean_BNP, other_BNP])
    streams = STREAM_CHOICES["two streams"]
    guided = GuidedRows.pair(rows_of(streams), rows_of(streams, seed=1), 0.75)
    drawn = denoise(oracle_of(both_BNP), guided, 10)
    assert drawn.shape == clean_BNP.shape
    expected = other_BNP + 0.75 * (clean_BNP - other_BNP)
    np.testing.assert_allclose(drawn, expected, atol=2e-3)
