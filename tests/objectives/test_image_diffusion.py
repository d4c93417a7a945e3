"""The noise schedule, the noised rows and the loss of the predicted noise."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.models.known_output import output_with
from tests.models.tiny_model import (
    PATCH_SIZE,
    SIZES,
    random_batch,
    random_group,
    stack,
    tiny_spec,
)
from tests.task_rows import layouts
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    Stream,
    lay_out_documents,
)
from unimod_jax.models.embedding import read_patches
from unimod_jax.objectives import (
    ImageDiffusion,
    task_loss,
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
        if group.layout.holds_patches(name):
            told_BTP = read_patches(noise_BNP, index_BT)
            patches[name] = jnp.where((index_BT >= 0)[..., None], told_BTP, 1e3)
    return output_with({}, patches)


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
    for task in ("text_to_image", "image_to_text"):
        share_BN1 = np.asarray(signal_share(seen[task].patch_time_BN))[..., None]
        expected = (
            np.sqrt(share_BN1) * batch[task].patch_BNP
            + np.sqrt(1 - share_BN1) * noise[task]
        )
        np.testing.assert_allclose(seen[task].patch_BNP, expected, atol=1e-5)
        assert noise[task].shape == (NUM_ROWS, SIZES.image_patches, PATCH_SIZE)
        assert abs(float(jnp.std(noise[task])) - 1) < 0.1
    assert not np.array_equal(noise["text_to_image"], noise["image_to_text"])


def test_images_before_their_caption_are_noised_half_way_at_most(corrupted):
    seen, _ = corrupted
    free = np.asarray(seen["text_to_image"].patch_time_BN)
    capped = np.asarray(seen["image_to_text"].patch_time_BN)
    assert free.min() > 0
    assert 0.9 < free.max() <= 1.0
    assert capped.min() > 0
    assert 0.4 < capped.max() <= 0.5
    assert abs(free.mean() - 0.5) < 0.1
    assert abs(capped.mean() - 0.25) < 0.05


def test_the_time_cap_may_be_chosen():
    streams = (Stream.of(TEXT, IMAGE),)
    capped = layouts(ImageDiffusion(), SIZES, streams, time_cap=0.1)
    group = random_group(capped["image_to_text"], NUM_ROWS)
    noised, _ = noise_patches(group, jax.random.key(1))
    assert 0.08 < float(noised.patch_time_BN.max()) <= 0.1


def test_rows_come_clean_from_the_host(batch):
    for group in batch.values():
        assert group.patch_time_BN.shape == group.patch_BNP.shape[:2]
        assert not group.patch_time_BN.any()
    assert (batch["text_to_image"].largest_time_BN == 1.0).all()
    assert (batch["image_to_text"].largest_time_BN == 0.5).all()


def interleaved_group(rows):
    """Rows of two image places; each row lists the largest times of its images."""
    layout = InterleavedLayout(
        "interleaved",
        (Stream.of(TEXT), Stream.of(IMAGE)),
        ((TEXT, 4), (IMAGE, 4)),
        patches_per_image=2,
        patch_size=PATCH_SIZE,
        bidirectional=(IMAGE,),
    )
    patches = np.ones((2, PATCH_SIZE), np.float32)
    laid_out = [
        lay_out_documents(
            [
                InterleavedDocument((Span(IMAGE, (), True, True, patches, largest),))
                for largest in row
            ],
            layout,
        )
        for row in rows
    ]
    return stack(laid_out)


def test_every_image_of_a_row_is_noised_at_a_time_of_its_own():
    group = interleaved_group([(1.0, 0.5)] * NUM_ROWS)
    seen, noise = ImageDiffusion().corrupt({"interleaved": group}, jax.random.key(0))
    time_BN = np.asarray(seen["interleaved"].patch_time_BN)
    np.testing.assert_array_equal(time_BN[:, ::2], time_BN[:, 1::2])
    first_B, second_B = time_BN[:, 0], time_BN[:, 2]
    assert first_B.min() > 0 and second_B.min() > 0
    assert 0.9 < first_B.max() <= 1.0
    assert 0.4 < second_B.max() <= 0.5
    assert abs(np.corrcoef(first_B, second_B)[0, 1]) < 0.4
    share_BN1 = np.asarray(signal_share(jnp.asarray(time_BN)))[..., None]
    expected = np.sqrt(share_BN1) + np.sqrt(1 - share_BN1) * noise["interleaved"]
    np.testing.assert_allclose(seen["interleaved"].patch_BNP, expected, atol=1e-5)


def test_a_task_is_noised_alike_whatever_other_tasks_there_are(batch, corrupted):
    seen, noise = corrupted
    alone = {"image_to_text": batch["image_to_text"]}
    again, drawn = ImageDiffusion().corrupt(alone, jax.random.key(0))
    jax.tree.map(
        np.testing.assert_array_equal, again["image_to_text"], seen["image_to_text"]
    )
    np.testing.assert_array_equal(drawn["image_to_text"], noise["image_to_text"])


def test_an_image_without_any_time_is_shown_clean_and_predicts_nothing():
    streams = (Stream.of(TEXT), Stream.of(IMAGE))
    shown = layouts(ImageDiffusion(), SIZES, streams, time_cap=0.0)["image_to_text"]
    group = random_group(shown, NUM_ROWS)
    seen, noise = ImageDiffusion().corrupt({"a": group}, jax.random.key(0))
    np.testing.assert_array_equal(seen["a"].patch_BNP, group.patch_BNP)
    wrong = perfect(group, jnp.full_like(noise["a"], 2.0))
    assert noise_loss(group, wrong, noise["a"]).mean == 0.0


def test_places_without_an_image_do_not_dilute_the_loss():
    group = interleaved_group([(1.0, 1.0), (1.0,), ()])
    noise_BNP = jnp.zeros(group.patch_BNP.shape)
    told = perfect(group, jnp.full_like(noise_BNP, 2.0))
    assert noise_loss(group, told, noise_BNP).mean == 4.0
    empty = interleaved_group([()])
    nothing = perfect(empty, jnp.zeros(empty.patch_BNP.shape))
    unnoised = jnp.zeros(empty.patch_BNP.shape)
    assert noise_loss(empty, nothing, unnoised).mean == 0.0


def test_text_only_rows_are_untouched_and_have_no_noise(batch, corrupted):
    seen, noise = corrupted
    assert seen["text_only"] is batch["text_only"]
    assert set(noise) == {"text_to_image", "image_to_text"}


def test_perfect_prediction_has_no_loss(corrupted):
    seen, noise = corrupted
    group, noise_BNP = seen["text_to_image"], noise["text_to_image"]
    assert noise_loss(group, perfect(group, noise_BNP), noise_BNP).mean == 0.0


def test_the_loss_is_the_mean_squared_error_over_all_values(corrupted):
    seen, noise = corrupted
    group, noise_BNP = seen["text_to_image"], noise["text_to_image"]
    wrong_BNP = jax.random.normal(jax.random.key(5), noise_BNP.shape)
    loss = noise_loss(group, perfect(group, wrong_BNP), noise_BNP).mean
    expected = np.mean((np.asarray(wrong_BNP) - np.asarray(noise_BNP)) ** 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_diffusion_is_weighted_beside_text(corrupted):
    seen, noise = corrupted
    group, noise_BNP = seen["text_to_image"], noise["text_to_image"]
    logits = {
        name: jnp.zeros((*stream.position_BT.shape, 24))
        for name, stream in group.streams.items()
    }
    output = output_with(logits, perfect(group, jnp.zeros_like(noise_BNP)).patches)
    objective = ImageDiffusion(diffusion_weight=5.0)
    sums = objective.loss_sums(group, output, noise_BNP)
    loss, metrics = task_loss(objective, sums)
    np.testing.assert_allclose(metrics["text_loss"], np.log(24), rtol=1e-5)
    np.testing.assert_allclose(metrics["image_loss"], np.mean(noise_BNP**2), rtol=1e-5)
    expected = metrics["text_loss"] + 5.0 * metrics["image_loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    sums = objective.loss_sums(group, output, None)
    without, metrics = task_loss(objective, sums)
    np.testing.assert_allclose(without, np.log(24), rtol=1e-5)
    assert "image_loss" not in metrics
