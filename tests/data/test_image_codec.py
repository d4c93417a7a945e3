"""Images survive becoming codes or patches; image files are read or refused."""

import numpy as np
import pytest
from PIL import Image

from unimod_jax.data import (
    DataConfig,
    DataError,
    codes_to_pixels,
    load_png,
    patches_to_pixels,
    pixels_to_codes,
    pixels_to_patches,
)

GREY = DataConfig()
COLOUR = DataConfig(image_size=4, image_channels=3, image_levels=256)


@pytest.mark.parametrize("config", [GREY, COLOUR])
def test_codes_and_patches_are_lossless_on_levels(config):
    codes = np.arange(config.num_image_codes, dtype=np.int32) % config.image_levels
    image = codes_to_pixels(codes, config)
    np.testing.assert_array_equal(pixels_to_codes(image, config), codes)
    patch_NP = pixels_to_patches(image, config)
    assert patch_NP.dtype == np.float32
    assert patch_NP.shape == (config.num_patches, config.patch_width)
    np.testing.assert_array_equal(patches_to_pixels(patch_NP, config), image)


def test_patches_come_in_raster_order():
    config = DataConfig(image_size=4, image_levels=256)
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    pixel = (pixels_to_patches(image, config) + 1) * 127.5
    np.testing.assert_allclose(pixel[0], [0, 1, 4, 5], atol=1e-4)
    np.testing.assert_allclose(pixel[1], [2, 3, 6, 7], atol=1e-4)
    np.testing.assert_allclose(pixel[2], [8, 9, 12, 13], atol=1e-4)


def test_patches_span_minus_one_to_one():
    image = np.zeros((8, 8, 1), np.uint8)
    image[0] = 255
    patch_NP = pixels_to_patches(image, GREY)
    assert (patch_NP.min(), patch_NP.max()) == (-1, 1)


def test_noisy_patches_are_clipped_and_rounded_to_levels(train_records):
    image = train_records[0].images[0].pixels
    noise = np.linspace(-0.06, 0.06, 64, dtype=np.float32).reshape(16, 4)
    patch_NP = pixels_to_patches(image, GREY) + noise
    np.testing.assert_array_equal(patches_to_pixels(patch_NP, GREY), image)
    assert patches_to_pixels(np.full((16, 4), 9.0), GREY).max() == 255


def test_codes_and_patches_of_the_wrong_kind_are_refused():
    with pytest.raises(DataError, match="has 64 codes"):
        codes_to_pixels(np.zeros(63, np.int32), GREY)
    with pytest.raises(DataError, match=r"span 0..17 but must lie in 0..16"):
        codes_to_pixels(np.arange(64) % 18, GREY)
    with pytest.raises(DataError, match="not finite"):
        patches_to_pixels(np.full((16, 4), np.nan), GREY)
    with pytest.raises(DataError, match=r"uint8 \[8, 8, 3\]"):
        pixels_to_codes(np.zeros((8, 8, 3), np.uint8), GREY)


def test_an_image_file_is_converted_to_what_the_model_reads(tmp_path, train_records):
    image = train_records[0].images[0].pixels
    path = tmp_path / "scan.png"
    grey = Image.fromarray(image[:, :, 0])
    for mode in ("L", "RGB", "RGBA", "LA"):
        grey.convert(mode).save(path)
        np.testing.assert_array_equal(load_png(path, GREY), image)
    colour = load_png(path, DataConfig(image_channels=3))
    np.testing.assert_array_equal(colour, np.repeat(image, 3, axis=2))


def test_a_file_of_another_size_needs_resize(tmp_path):
    path = tmp_path / "large.png"
    Image.new("L", (30, 20), 255).save(path)
    with pytest.raises(DataError, match=r"is 20 x 30 pixels.*data.resize"):
        load_png(path, GREY)
    assert load_png(path, DataConfig(resize=True)).shape == (8, 8, 1)


def test_a_bad_file_is_refused_in_one_sentence(tmp_path):
    good = tmp_path / "good.png"
    Image.effect_noise((64, 64), 50).save(good)
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:900])
    Image.new("I;16", (8, 8)).save(tmp_path / "deep.png")
    for name, words in {
        "absent.png": "cannot read file",
        "text.png": "cannot be decoded",
        "cut.png": "cannot be decoded",
        "deep.png": "has mode 'I;16'",
    }.items():
        with pytest.raises(DataError, match=words) as error:
            load_png(tmp_path / name, GREY)
        assert name in str(error.value) and "\n" not in str(error.value)
