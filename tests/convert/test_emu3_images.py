"""Emu3 and its image tokenizer in the same files: pixels to logits, codes to pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.convert.golden_models import (
    GOLDEN,
    arrays,
    assert_close,
    dense,
    files,
    logits_of,
    published,
    spec,
    table,
)
from tests.golden.random_tensors import random_images
from tests.models.tiny_model import stack
from unimod_jax.convert import parameter_values, weight_values, write_files
from unimod_jax.convert.image_tokenizer_files import MOVQGAN, read_image_tokenizer
from unimod_jax.data.documents import image_ids
from unimod_jax.data.vocabulary import Vocabulary
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    SpecialTokens,
    lay_out_documents,
)

NAME = "emu3_hf"
IMAGES = (2, 12, 8, 3)
BEFORE, AFTER, IMAGE_TOKENS = 3, 4, 6 * (4 + 1)
"""Tokens of the prompts; a line of four codes has an end."""


@functools.cache
def tokenizer():
    return read_image_tokenizer(GOLDEN / NAME)


@functools.cache
def codes() -> np.ndarray:
    held, params = tokenizer()
    image = jnp.asarray(random_images(IMAGES))
    return np.asarray(jax.jit(held.tokenizer.encode)(params, image))


def vocabulary() -> Vocabulary:
    words: dict = published(NAME)["vocabulary_map"]
    first = words["<|visual token 000000|>"]
    special = SpecialTokens.only(end_of_line=words["<|extra_200|>"])
    return Vocabulary(special, 0, first, ((0, first),), first, 32)


def test_the_image_tokenizer_is_read_from_the_same_files():
    held, _ = tokenizer()
    assert held.kind == MOVQGAN and held.can_draw
    assert held.tokenizer.downsampling == 2 and held.tokenizer.num_codes == 32


def test_codes_of_images_are_the_references():
    expected = arrays(NAME)["image/code"]
    np.testing.assert_array_equal(codes(), expected)
    assert np.unique(expected).size >= 8


def test_logits_of_prompts_with_an_image_are_the_references():
    of, expected = spec(NAME), arrays(NAME)["image/ids"]
    slots = ((TEXT, BEFORE + AFTER), (IMAGE, IMAGE_TOKENS))
    layout, rows = InterleavedLayout("interleaved", of.streams, slots), []
    for ids, code in zip(expected.tolist(), codes(), strict=True):
        image = image_ids(code.reshape(-1), vocabulary(), code.shape[1])
        assert ids[BEFORE:-AFTER] == image
        document = InterleavedDocument(
            (
                Span(TEXT, ids[:BEFORE], False),
                Span(IMAGE, image, False),
                Span(TEXT, ids[-AFTER:], False),
            )
        )
        rows.append(lay_out_documents([document], layout))
    found = logits_of(of, dense(NAME), stack(rows))
    assert_close(found, arrays(NAME)["image/logits"])


def test_images_of_codes_are_the_references():
    held, params = tokenizer()
    drawn = jax.jit(held.tokenizer.decode)(params, arrays(NAME)["image/code"])
    expected = arrays(NAME)["image/pixel"]
    np.testing.assert_allclose(drawn, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.05


def test_the_two_tables_together_are_the_whole_of_the_files(tmp_path):
    held, params = tokenizer()
    values = weight_values(dense(NAME)["params"], spec(NAME), table(NAME))
    values |= parameter_values(params, held.table)
    write_files(files(NAME).manifest, tmp_path / "out", values)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (GOLDEN / NAME / path.name).read_bytes()
