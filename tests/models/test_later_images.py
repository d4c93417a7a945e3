"""Transfusion's interleaved rows: text never learns what a later image shows.

Images see themselves in both directions, and text stands before, between and after
them; a change of one image must stay within it and in what comes later. Nor does it
matter what the row goes on to hold: other modalities, other counts, other documents.
"""

import functools

import jax
import numpy as np
import pytest

from tests.models.tiny_model import (
    CODE_IDS,
    PATCH_SIZE,
    QUICK_TO_COMPILE,
    SIZES,
    TEXT_IDS,
    by_position,
    random_variables,
    routed_in,
    stack,
    tiny_spec,
)
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    lay_out_documents,
)
from unimod_jax.models import MixtureOfDepths, UnifiedModel
from unimod_jax.mot import COMPONENTS

PATCHES = SIZES.image_patches
DEPTHS = {
    "dense": MixtureOfDepths(),
    "gate": routed_in((0, 1), ("interleaved",), keep_ratio=0.7),
    "predictor": routed_in(
        (0, 1), ("interleaved",), keep_ratio=0.7, causal_rule="predictor"
    ),
}
STORAGE = {"one stream": (), "two streams": COMPONENTS}
over_models = pytest.mark.parametrize(
    ("storage", "depth"), [(s, d) for s in STORAGE for d in DEPTHS]
)


def text(start, length):
    return Span(TEXT, [TEXT_IDS[(start + n) % len(TEXT_IDS)] for n in range(length)])


def image(seed):
    patches = np.random.default_rng(seed).normal(size=(PATCHES, PATCH_SIZE))
    return Span(IMAGE, (), bidirectional=True, patches=patches.astype(np.float32))


def three_images(*seeds):
    """Text 0-2, image 3-6, text 7-8, image 9-12, text 13, image 14-17, text 18-19."""
    first, second, third = (image(seed) for seed in seeds)
    spans = text(0, 3), first, text(1, 2), second, text(2, 1), third, text(3, 2)
    return [InterleavedDocument(spans)]


IMAGE_START = (3, 9, 14)
BASE = three_images(1, 2, 3)
# Row n + 1 has another n-th image than row 0.
WITH_OTHER_IMAGES = [
    BASE,
    three_images(11, 2, 3),
    three_images(1, 12, 3),
    three_images(1, 2, 13),
]


@functools.cache
def model(storage, depth):
    """(layout of rows, group -> (what is said, what is kept) in sequence order)."""
    spec = tiny_spec(STORAGE[storage], DEPTHS[depth], patch_size=PATCH_SIZE)
    layout = InterleavedLayout(
        "interleaved",
        spec.streams,
        ((TEXT, 12), (IMAGE, 3 * PATCHES)),
        patches_per_image=PATCHES,
        patch_size=PATCH_SIZE,
        bidirectional=(IMAGE,),
    )
    apply = jax.jit(UnifiedModel(spec).apply, compiler_options=QUICK_TO_COMPILE)

    def run(rows):
        group = stack([lay_out_documents(row, layout) for row in rows])
        variables = random_variables(spec, {"interleaved": group})
        outputs, (report,) = apply(variables, {"interleaved": group})
        output = outputs["interleaved"]
        said = [
            by_position(group, arrays) for arrays in (output.logits, output.patches)
        ]
        kept = [
            by_position(group, {n: r.kept_BT[layer] for n, r in report[task].items()})
            for task in report
            for layer in range(2)
        ]
        return np.concatenate(said, axis=-1), np.array(kept)

    return run


@over_models
def test_a_later_image_leaves_everything_before_it_unchanged(storage, depth):
    said, kept = model(storage, depth)(WITH_OTHER_IMAGES)
    for row, start in enumerate(IMAGE_START, start=1):
        change_T = np.abs(said[row] - said[0]).max(axis=-1)
        np.testing.assert_allclose(change_T[:start], 0.0, atol=1e-5)
        if len(kept):
            moved = kept[:, row] != kept[:, 0]
            assert not moved[:, :start].any()
        # The image notices, all of it, and so does some text after it.
        assert (change_T[start : start + PATCHES] > 1e-3).all()
        assert change_T[start + PATCHES :].max() > 1e-3


@over_models
def test_what_a_row_goes_on_to_hold_does_not_matter(storage, depth):
    # Nine tokens in common: text, an image, text. Then other orders and counts.
    start = text(0, 3), image(1), text(1, 2)
    endings = [
        [(*start, image(2), text(2, 1), image(3))],
        [(*start, text(4, 3), image(7), text(5, 1))],
        [start, (image(8), image(9), text(6, 2))],
        [start],
    ]
    rows = [[InterleavedDocument(spans) for spans in row] for row in endings]
    said, kept = model(storage, depth)(rows)
    common = 3 + PATCHES + 2
    for row in range(1, len(rows)):
        np.testing.assert_allclose(
            said[row, :common], said[0, :common], rtol=1e-5, atol=1e-5
        )
        if len(kept):
            np.testing.assert_array_equal(kept[:, row, :common], kept[:, 0, :common])


def test_a_bidirectional_image_sees_its_own_later_patches_only():
    # The last patch of the first image moves its first patch; a causal image is codes.
    patches = BASE[0].spans[1].patches.copy()
    patches[-1] += 1.0
    changed = Span(IMAGE, (), bidirectional=True, patches=patches)
    spans = BASE[0].spans
    other = [InterleavedDocument((spans[0], changed, *spans[2:]))]
    said, _ = model("two streams", "dense")([BASE, other])
    change_T = np.abs(said[1] - said[0]).max(axis=-1)
    np.testing.assert_allclose(change_T[:3], 0.0, atol=1e-5)
    assert change_T[3] > 1e-3


def test_causal_images_do_not_see_their_own_later_codes():
    spec = tiny_spec(COMPONENTS)
    layout = InterleavedLayout("interleaved", spec.streams, ((TEXT, 4), (IMAGE, 4)))
    codes = list(CODE_IDS[:4])
    rows = [
        [InterleavedDocument((text(0, 2), Span(IMAGE, ids), text(1, 2)))]
        for ids in (codes, [*codes[:3], CODE_IDS[6]])
    ]
    group = stack([lay_out_documents(row, layout) for row in rows])
    variables = random_variables(spec, {"interleaved": group})
    apply = jax.jit(UnifiedModel(spec).apply, compiler_options=QUICK_TO_COMPILE)
    outputs, _ = apply(variables, {"interleaved": group})
    logits = by_position(group, outputs["interleaved"].logits)
    change_T = np.abs(logits[1] - logits[0]).max(axis=-1)
    np.testing.assert_allclose(change_T[:5], 0.0, atol=1e-5)
    assert (change_T[5:] > 1e-3).all()
