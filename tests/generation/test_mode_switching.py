"""Text, then denoising in place, then text again: equal to passes over whole rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generation.token_by_token import (
    bound_model,
    next_logits,
    routing,
    run_whole,
    with_head_bias,
)
from tests.models.tiny_model import (
    DENSE_DEPTH,
    PATCH_SIZE,
    QUICK_TO_COMPILE,
    stack,
    tiny_spec,
)
from unimod_jax.generation import (
    NO_TOKEN,
    DocumentWriter,
    Grammar,
    GuidedRows,
    TokenSampler,
    denoise_waiting,
    write_and_draw,
)
from unimod_jax.generation.diffusion_sampler import ancestral_sampling, patches_of
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    SpecialTokens,
    lay_out_documents,
)
from unimod_jax.mot import COMPONENTS

SPECIAL = SpecialTokens()

BEGIN, END = SPECIAL.begin, SPECIAL.end
BEGIN_IMAGE, END_IMAGE = SPECIAL.begin_image, SPECIAL.end_image
NUM_PATCHES, NUM_STEPS, NUM_WORDS = 4, 3, 3
GRAMMAR = Grammar(24, ((12, 16),), image_slots=NUM_PATCHES)
GREEDY = TokenSampler(temperature=0.0)
SHOWN = np.random.default_rng(7).uniform(-1, 1, (NUM_PATCHES, PATCH_SIZE))
# Rows 0 and 2 wait for an image; row 2 has one already.
PROMPTS = [
    [BEGIN, 12, 13, BEGIN_IMAGE],
    [BEGIN, 14],
    [BEGIN, BEGIN_IMAGE, SHOWN, END_IMAGE, 15, 12, BEGIN_IMAGE],
]
WITHOUT = [[BEGIN, BEGIN_IMAGE], [BEGIN], [BEGIN, BEGIN_IMAGE]]
WAITING = [0, 2]


def rows_of(documents, layout):
    """One document per row, of ids and of arrays of patches."""
    rows = []
    for parts in documents:
        spans = [
            Span(IMAGE, (), bidirectional=True, patches=part.astype(np.float32))
            if isinstance(part, np.ndarray)
            else Span(TEXT, [part])
            for part in parts
        ]
        rows.append(lay_out_documents([InterleavedDocument(tuple(spans))], layout))
    return stack(rows)


def setting(untied, depth, bias):
    """(layout, model that likes some ids)."""
    spec = tiny_spec(untied, depth, PATCH_SIZE, biases=True)
    layout = InterleavedLayout(
        "interleaved",
        spec.streams,
        ((TEXT, 10), (IMAGE, 2 * NUM_PATCHES)),
        patches_per_image=NUM_PATCHES,
        patch_size=PATCH_SIZE,
        bidirectional=(IMAGE,),
    )
    bound = bound_model(spec, rows_of(PROMPTS, layout))
    return layout, with_head_bias(bound, bias)


@functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
def drawn(writer, key):
    """(before, patches, after one image, ids of the text that follows)."""
    before = writer.start()
    patches, after = denoise_waiting(writer, before, NUM_STEPS, key)
    return before, patches, after, writer.write_tokens(after, NUM_WORDS, key)[0]


@functools.partial(jax.jit, static_argnames="scales", compiler_options=QUICK_TO_COMPILE)
def denoised_in_whole_rows(bound, rows, key, scales):
    """Patches of images that stand last in their rows, without any cache."""
    guided = GuidedRows(rows, scales)
    last_B1 = jnp.argmax(rows.largest_time_BN, axis=1)[:, None]
    index_BN = last_B1 + jnp.arange(NUM_PATCHES, dtype=jnp.int32)[None, :]
    row_B1 = jnp.arange(rows.num_rows)[:, None]

    def predict_noise(patch_BNP, time):
        group = dataclasses.replace(
            rows,
            patch_BNP=rows.patch_BNP.at[row_B1, index_BN].set(guided.mirror(patch_BNP)),
            patch_time_BN=rows.patch_time_BN.at[row_B1, index_BN].set(time),
        )
        noise_BNP = patches_of(bound(group), group)
        return guided.combine(noise_BNP[row_B1, index_BN])

    shape = (guided.num_images, NUM_PATCHES, PATCH_SIZE)
    return ancestral_sampling(predict_noise, shape, NUM_STEPS, key)


CASES = {
    "routed": ((), routing(), 1.0),
    "routed towers": (COMPONENTS, routing(), 1.0),
    "guided towers": (COMPONENTS, DENSE_DEPTH, 2.5),
}


@pytest.fixture(scope="module", params=CASES)
def run(request):
    """(layout, model, writer, before, patches, after, the ids that follow)."""
    untied, depth, scale = CASES[request.param]
    layout, bound = setting(untied, depth, {BEGIN_IMAGE: -100.0, END: -100.0})
    rows, others = rows_of(PROMPTS, layout), rows_of(WITHOUT, layout)
    writer = DocumentWriter(
        bound, GuidedRows.pair(rows, others, scale), GRAMMAR, GREEDY
    )
    return layout, bound, writer, *drawn(writer, jax.random.key(0))


def rows_after(prompts, patches, *then):
    """The documents in which the waiting rows got their image, and what followed."""
    return [
        [*parts, patches[row], END_IMAGE, *then] if row in WAITING else list(parts)
        for row, parts in enumerate(prompts)
    ]


def test_rows_wait_that_have_opened_an_image(run):
    _, _, writer, before, _, after, _ = run
    np.testing.assert_array_equal(writer.waiting(before), [True, False, True])
    assert not np.asarray(writer.waiting(after)).any()


def test_denoising_with_caches_equals_denoising_in_whole_rows(run):
    layout, bound, writer, _, patches, _, _ = run
    noise = np.zeros((3, NUM_PATCHES, PATCH_SIZE))
    rows = rows_of(rows_after(PROMPTS, noise), layout)
    others = rows_of(rows_after(WITHOUT, noise), layout)

    def marked(rows, prompts):
        # The image to denoise is the row's last; mark its first patch.
        first = [
            NUM_PATCHES * sum(isinstance(part, np.ndarray) for part in parts)
            for parts in prompts
        ]
        mark = np.zeros(rows.largest_time_BN.shape, np.float32)
        mark[np.arange(3), first] = 1.0
        return dataclasses.replace(rows, largest_time_BN=jnp.asarray(mark))

    marked_rows, scales = marked(rows, PROMPTS), writer.guided.scales
    if scales:
        both = GuidedRows.pair(marked_rows, marked(others, WITHOUT), scales[0])
        marked_rows = both.rows
    expected = denoised_in_whole_rows(bound, marked_rows, jax.random.key(0), scales)
    np.testing.assert_allclose(
        np.asarray(patches)[WAITING], np.asarray(expected)[WAITING], atol=1e-4
    )


def test_only_the_finished_image_and_its_closing_enter_the_caches(run):
    layout, bound, writer, before, patches, after, _ = run
    documents = rows_after(PROMPTS, np.asarray(patches))
    if writer.guided.scales:
        documents += rows_after(WITHOUT, np.asarray(patches))
    rows = rows_of(documents, layout)
    np.testing.assert_allclose(after.logits_BV, next_logits(bound, rows), atol=1e-5)
    _, reports = run_whole(bound, rows)
    for cache, report in zip(after.caches, reports, strict=True):
        for name, stream in report.get("interleaved", {}).items():
            kept_LB = np.asarray(stream.kept_BT).sum(axis=-1)
            np.testing.assert_array_equal(cache.used[name], kept_LB)
    moved = np.asarray(after.position_B - before.position_B)[:3]
    np.testing.assert_array_equal(moved, [NUM_PATCHES + 1, 0, NUM_PATCHES + 1])


def test_rows_that_do_not_wait_stay_as_they_are(run):
    _, _, writer, before, _, after, _ = run
    others = [1, 4] if writer.guided.scales else [1]

    def same(old, new, axis):
        np.testing.assert_array_equal(
            np.take(old, others, axis), np.take(new, others, axis)
        )

    jax.tree.map(lambda x, y: same(x, y, 1), before.caches, after.caches)
    same(before.logits_BV, after.logits_BV, 0)
    same(before.position_B, after.position_B, 0)
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x[1], y[1]),
        before.progress,
        after.progress,
    )


def test_text_goes_on_after_the_image(run):
    layout, bound, _, _, patches, _, ids_BT = run
    documents = rows_after(PROMPTS, np.asarray(patches))
    words = np.isin(np.arange(24), range(12, 16))
    for offset in range(NUM_WORDS):
        # Guidance is for images: text is what the rows with prompts say.
        logits = next_logits(bound, rows_of(documents, layout))
        best = np.where(words, logits, -np.inf).argmax(axis=1)
        np.testing.assert_array_equal(ids_BT[:, offset], best)
        for document, token in zip(documents, best, strict=True):
            document.append(int(token))


def test_writing_and_drawing_take_turns_until_all_rows_have_ended():
    # An image wherever one fits, and else the end.
    likes = {BEGIN_IMAGE: 200.0, END: 100.0}
    layout, bound = setting((), DENSE_DEPTH, likes)
    writer = DocumentWriter(
        bound, GuidedRows(rows_of(PROMPTS, layout)), GRAMMAR, GREEDY
    )
    added = write_and_draw(writer, 3, 5, NUM_STEPS, jax.random.key(0))
    shape = (NUM_PATCHES, PATCH_SIZE)
    opened, ended = [BEGIN_IMAGE], [END]
    expected = [
        [shape, opened, shape, ended],
        [opened, shape, opened, shape, ended],
        [shape, ended],
    ]
    assert [[content(part) for part in row] for row in added] == expected
    first, second = (part for part in added[1] if part.ndim == 2)
    assert np.abs(first - second).max() > 0.1
    # Images are counted, and a row that waits in vain has its opening only.
    added = write_and_draw(writer, 3, 1, NUM_STEPS, jax.random.key(0))
    assert [[content(part) for part in row] for row in added] == [
        [shape, opened],
        [opened, shape, opened],
        [shape, ended],
    ]


def content(part):
    """The ids of a piece of text, or the shape of an image."""
    if part.ndim == 2:
        assert part.dtype == np.float32
        assert np.isfinite(part).all()
        return part.shape
    assert part.dtype == np.int32
    assert NO_TOKEN not in part
    return part.tolist()
