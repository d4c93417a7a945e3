"""Codes come from grey levels, or from a codec that takes whole batches."""

import numpy as np
import pytest

from unimod_jax.data import (
    CodedRecords,
    DataConfig,
    DataError,
    GreyLevels,
    Image,
    LearnedCodec,
    Record,
    Text,
    codes_to_pixels,
    encode_batch,
    encode_images,
    fill,
    first_images,
    pixels_to_codes,
    with_codes,
)
from unimod_jax.data.released import pixels

GREY = DataConfig()


class Corners:
    """Codes of the four quarters of an image: their first pixels. Remembers batches."""

    def __init__(self):
        self.batches = []

    def encode(self, images):
        self.batches.append(len(images))
        return images[:, ::4, ::4, 0].reshape(len(images), -1).astype(np.int32)

    def decode(self, codes):
        quarters = codes.reshape(-1, 2, 2, 1).astype(np.uint8)
        return quarters.repeat(4, axis=1).repeat(4, axis=2)


def images(count):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 17, (count, 64))
    return np.stack([codes_to_pixels(row, GREY) for row in levels])


def test_grey_levels_are_a_codec_without_loss():
    codec, shown = GreyLevels(GREY), images(3)
    codes = codec.encode(shown)
    np.testing.assert_array_equal(codes[1], pixels_to_codes(shown[1], GREY))
    assert (codes.shape, codes.dtype) == ((3, 64), np.int32)
    np.testing.assert_array_equal(codec.decode(codes), shown)


def test_a_learned_codec_scales_flattens_and_rounds_down():
    """A network of one value per code: the first red one of each quarter, in 255ths."""

    def encoder(pixel_BYXC):
        assert pixel_BYXC.dtype == np.float32
        return np.rint((pixel_BYXC[:, ::2, ::3, 0] + 1) * 127.5).astype(np.int64)

    def decoder(code_Bhw):
        value = (code_Bhw / 127.5 - 1).astype(np.float32) * np.float32(1.5)
        return np.repeat(value.repeat(2, 1).repeat(3, 2)[..., None], 3, axis=3)

    codec = LearnedCodec(
        np.asarray, pixels.show_o_scale, encoder, decoder, height=2, width=3
    )
    shown = np.random.default_rng(0).integers(0, 256, (4, 4, 9, 3)).astype(np.uint8)
    codes = codec.encode(shown)
    np.testing.assert_array_equal(codes, shown[:, ::2, ::3, 0].reshape(4, 6))
    assert codes.dtype == np.int32
    decoded = codec.decode(np.array([[0, 127, 128, 140, 250, 255]]))
    assert (decoded.shape, decoded.dtype) == ((1, 4, 9, 3), np.uint8)
    # 1.5 (x - 127.5) + 127.5, cut to 0..255 and rounded down.
    np.testing.assert_array_equal(
        decoded[0, ::2, ::3, 1], [[0, 126, 128], [146, 255, 255]]
    )


def test_images_are_encoded_in_batches_of_one_size():
    codec, shown = Corners(), images(19)
    codes = encode_images(iter(map(Image, shown)), codec)
    assert codec.batches == [8, 8, 8]
    np.testing.assert_array_equal(codes, shown[:, ::4, ::4, 0].reshape(19, 4))


def test_every_image_of_a_record_gets_its_own_codes():
    codec, shown = Corners(), images(19)
    counts = [1, 0, 3, 2, *[1] * 13]
    left = iter(shown)
    records = []
    for number, count in enumerate(counts):
        pictures = [Image(next(left)) for _ in range(count)]
        parts = (Text(("a",)), *pictures[:1], Text(("b",)), *pictures[1:])
        records.append(Record(parts, f"r{number}"))
    np.testing.assert_array_equal(first_images(records), np.cumsum([0, *counts]))
    encoded = with_codes(records, codec)
    assert isinstance(encoded, CodedRecords)
    assert codec.batches == [8, 8, 8]
    assert [record.key for record in encoded] == [record.key for record in records]
    assert [record.texts for record in encoded] == [("a", "b")] * len(records)
    coded = [image for record in encoded for image in record.images]
    for image, pixel_YXC in zip(coded, shown, strict=True):
        np.testing.assert_array_equal(image.codes, pixel_YXC[::4, ::4, 0].ravel())
        np.testing.assert_array_equal(image.pixels, pixel_YXC)
    assert [len(record.images) for record in encoded[2:4]] == [3, 2]


def test_a_short_batch_is_filled_up():
    codec, shown = Corners(), images(3)
    codes = encode_batch(list(shown), codec, 4)
    assert codec.batches == [4]
    np.testing.assert_array_equal(codes, Corners().encode(shown))


def test_codes_made_beforehand_are_what_a_row_holds(tokenizer, text_to_image, digits):
    codes = np.arange(64, dtype=np.int32) % 17
    record = Record((Image(images(1)[0], codes=codes), Text(("the digit 7",))), "r0")
    row = fill(record, text_to_image, digits, tokenizer)
    start = tokenizer.vocabulary.image_start
    assert row.tokens["image"] == (start + codes).tolist()


def test_learned_codes_are_counted_by_their_size():
    assert DataConfig(image_size=8, code_size=4).num_image_codes == 4
    with pytest.raises(DataError, match=r"code_size 3 does not divide data.image_size"):
        DataConfig(image_size=8, code_size=3)
