"""Patches may be cut from the latents of a learned autoencoder."""

import dataclasses

import numpy as np
import pytest

from tests.data.conftest import with_segment
from unimod_jax.data import (
    CodedRecords,
    DataConfig,
    DataError,
    DocumentChoices,
    LearnedLatents,
    StoredCodes,
    encode_images,
    fill,
    first_images,
    interleave,
    open_split,
    patches_to_latents,
    tfds_source,
)
from unimod_jax.data.image_codec import latents_to_patches
from unimod_jax.layout import IMAGE, InterleavedLayout

LATENT = DataConfig(image_size=8, code_size=2, latent_channels=3, latent_scale=0.5)


class Means:
    """Latents of 2 x 2 pixels: their mean, with two multiples of it."""

    def encode(self, images):
        size = len(images), 4, 2, 4, 2
        mean = images[..., 0].reshape(size).mean(axis=(2, 4), dtype=np.float32)
        return np.stack([mean, 2 * mean, -mean], axis=-1)


@pytest.fixture(scope="module")
def config(digits):
    names = ("code_size", "latent_channels", "latent_scale")
    return dataclasses.replace(
        digits, **{name: getattr(LATENT, name) for name in names}
    )


def test_patches_are_squares_of_scaled_latents():
    assert (LATENT.num_patches, LATENT.patch_width) == (4, 12)
    latent_YXZ = np.arange(48, dtype=np.float32).reshape(4, 4, 3)
    patch_NP = latents_to_patches(latent_YXZ, LATENT)
    # The second patch: right half of the first two lines.
    expected = np.concatenate([np.arange(6, 12), np.arange(18, 24)]) / 2
    np.testing.assert_array_equal(patch_NP[1], expected)
    np.testing.assert_array_equal(patches_to_latents(patch_NP, LATENT), latent_YXZ)
    single = dataclasses.replace(LATENT, patch_size=1)
    assert (single.num_patches, single.patch_width) == (16, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code_size": 0}, "data.code_size is 0"),
        ({"latent_scale": 0.0}, "data.latent_scale 0.0"),
        ({"latent_channels": -1}, "data.latent_channels is -1"),
        ({"patch_size": 3}, "patch_size 3 does not divide a latent side of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, words):
    with pytest.raises(DataError, match=words):
        dataclasses.replace(LATENT, **change)


def test_latents_of_another_autoencoder_are_refused():
    with pytest.raises(DataError, match=r"\[4, 4, 8\] but this data has \[4, 4, 3\]"):
        latents_to_patches(np.zeros((4, 4, 8), np.float32), LATENT)


def test_rows_hold_latents_from_disk_and_no_image_is_decoded(
    config, diffusion, tokenizer, tmp_path, monkeypatch
):
    records = open_split(config, "test")
    layout = with_segment(diffusion, "image", num_slots=4)
    firsts = first_images(records)
    stored = StoredCodes(tmp_path, len(records), config)
    stored.make(0, records, firsts, Means())
    images = (image for record in records for image in record.images)
    latents = encode_images(images, Means())
    assert (stored[7].shape, stored[7].dtype) == ((4, 4, 3), np.float32)
    again = open_split(config, "test")

    def refuse(encoded, where):
        raise AssertionError(f"the image of {where} was decoded")

    monkeypatch.setattr(tfds_source, "decode_image", refuse)
    monkeypatch.setattr(again, "_cache", None)
    record = CodedRecords(again, stored, firsts)[7]
    row = fill(record, layout, config, tokenizer)
    wanted = latents_to_patches(latents[7], config)
    np.testing.assert_array_equal(row.patch_NP, wanted)
    interleaved = InterleavedLayout(
        "interleaved",
        layout.streams,
        (("text", 20), ("image", 4)),
        patches_per_image=4,
        patch_size=12,
    )
    choices = DocumentChoices(texts=(0,), order=(1, 0))
    document = interleave(record, interleaved, config, tokenizer, choices)
    (image_span,) = (span for span in document.spans if span.modality == IMAGE)
    np.testing.assert_array_equal(image_span.patches, wanted)


def test_an_image_without_latents_is_refused(
    config, diffusion, tokenizer, test_records
):
    with pytest.raises(DataError, match=r"has no latents.*encode the images first"):
        fill(test_records[0], diffusion, config, tokenizer)


def test_an_autoencoder_sees_values_around_0_and_its_pixels_are_rounded():
    def encoder(pixel_BYXC):
        assert pixel_BYXC.dtype == np.float32
        return pixel_BYXC[:, ::2, ::2, :1]

    def decoder(latent_BYXZ):
        return latent_BYXZ.repeat(2, 1).repeat(2, 2).repeat(3, 3) * np.float32(1.25)

    codec = LearnedLatents(LATENT, encoder, decoder)
    shown = np.zeros((1, 4, 4, 3), np.uint8)
    shown[0, ::2, ::2, 0] = [[0, 255], [51, 207]]
    latents = codec.encode(shown)
    np.testing.assert_allclose(
        latents[0, :, :, 0], [[-1, 1], [-0.6, 79.5 / 127.5]], atol=1e-6, rtol=0
    )
    # 1.25 times as far from the middle: 31.875 and 226.875, and past the ends.
    drawn = codec.decode(latents)
    assert (drawn.shape, drawn.dtype) == ((1, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(drawn[0, ::2, ::2, 1], [[0, 255], [32, 227]])
