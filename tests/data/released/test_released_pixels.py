"""Pixels equal the published preprocessing, bit for bit, on arrays made with it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.released.pictures import EMU3_RANGE, SIZE, pictures
from unimod_jax.data import DataError
from unimod_jax.data.released import pixels

GOLDEN = Path(__file__).parents[2] / "golden" / "pixels.npz"
PICTURES = pictures()


def show_o(picture):
    return pixels.show_o_scale(pixels.show_o_picture(picture, SIZE))


def chameleon(picture):
    return pixels.chameleon_scale(pixels.chameleon_picture(picture, SIZE))


def emu3(picture):
    return pixels.emu3_scale(pixels.emu3_picture(picture, *EMU3_RANGE))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("model", [show_o, chameleon, emu3])
@pytest.mark.parametrize("name", PICTURES)
def test_pixels_are_the_published_ones(golden, model, name):
    values = model(PICTURES[name])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, golden[f"{model.__name__}/{name}"])


def test_every_golden_array_is_tested(golden):
    models = ("show_o", "chameleon", "emu3")
    assert set(golden) == {f"{model}/{name}" for model in models for name in PICTURES}


def test_emu3_sizes_are_whole_codes_within_their_area():
    assert pixels.emu3_size(720, 720, *pixels.EMU3_PIXELS) == (720, 720)
    assert pixels.emu3_size(100, 300, *pixels.EMU3_PIXELS) == (296, 888)
    assert pixels.emu3_size(3000, 2000, *pixels.EMU3_PIXELS) == (1248, 832)


@pytest.mark.parametrize("model", [show_o, chameleon, emu3])
def test_a_picture_of_more_than_eight_bits_is_refused(model):
    picture = Image.fromarray(np.zeros((20, 20), np.uint16))
    with pytest.raises(DataError, match="mode 'I;16' cannot be used; save it as an"):
        model(picture)


def test_a_picture_of_a_size_that_cannot_be_used_is_refused():
    for size in ((7, 20), (90, 10)):
        with pytest.raises(DataError, match=f"{size[0]} x {size[1]} pixels cannot be"):
            emu3(Image.new("RGB", size))
    for model in (show_o, chameleon):
        with pytest.raises(DataError, match="0 x 4 pixels cannot be used"):
            model(Image.new("RGB", (0, 4)))
