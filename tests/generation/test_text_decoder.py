"""Decoding a segment token by token equals rebuilding the row from what is known."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from tests.generation.token_by_token import bound_model, next_logits, routing
from tests.models.tiny_model import (
    CODE_IDS,
    PATCH_SIZE,
    QUICK_TO_COMPILE,
    SIZES,
    TEXT_IDS,
    VOCABULARY_SIZE,
    random_document,
    stack,
    tiny_spec,
)
from tests.task_rows import layouts
from unimod_jax.generation import (
    GuidedRows,
    SamplingConfig,
    TokenSampler,
    decode_segment,
)
from unimod_jax.generation.text_decoder import without_line_ends
from unimod_jax.layout import PADDING, Document, SpecialTokens, lay_out
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import ImageDiffusion, MaskedImage, NextToken

SPECIAL = SpecialTokens()

IS_CODE = np.isin(np.arange(VOCABULARY_SIZE), CODE_IDS)
IS_WORD = np.isin(np.arange(VOCABULARY_SIZE), [*TEXT_IDS, SPECIAL.end])
GREEDY = TokenSampler(temperature=0.0)
LINED = dataclasses.replace(SIZES, image_line=2)
NUM_ROWS = 2


@functools.cache
def setting(untied, objective, task, sizes=SIZES):
    """(layout, model); every layer routes, so selection has to be causal too."""
    patch_size = PATCH_SIZE if objective.continuous_images else 0
    spec = tiny_spec(untied, routing(keep_ratio=0.6), patch_size)
    layout = layouts(objective, sizes, spec.streams)[task]
    rows = [lay_out(d, layout) for d in documents_of(layout)]
    return layout, bound_model(spec, stack(rows))


def documents_of(layout, seed=3):
    rng = np.random.default_rng(seed)
    return [random_document(layout, rng) for _ in range(NUM_ROWS)]


def before(document, layout, segment, filled):
    """The row up to a segment of which some tokens are known."""
    names = [spec.name for spec in layout.segments]
    tokens = {
        name: document.tokens[name]
        for name in names[: names.index(segment)]
        if name in document.tokens
    }
    return lay_out(Document({**tokens, segment: filled}, document.patch_NP), layout)


def rows_to_fill(documents, layout, segment):
    empty = [PADDING] * layout.segment(segment).num_slots
    return stack([before(d, layout, segment, empty) for d in documents])


def rebuilt(model, layout, segment, allowed_V, combine, *document_sets, penalty=1.0):
    """Greedy decoding that lays out and runs whole rows for every token."""
    spec = layout.segment(segment)
    known = np.zeros((NUM_ROWS, 0), int)
    for offset in range(spec.num_slots):
        row_sets = [
            [
                before(document, layout, segment, filled.tolist())
                for document, filled in zip(documents, known, strict=True)
            ]
            for documents in document_sets
        ]
        logits = combine(*(next_logits(model, stack(rows)) for rows in row_sets))
        for row, logits_V in zip(row_sets[0], logits, strict=True):
            has = sorted(ids_of(row))
            sign = np.sign(logits_V[has])
            logits_V[has] *= penalty**-sign
        best = np.where(allowed_V, logits, -np.inf).argmax(axis=-1)
        if spec.line_length and (offset + 1) % (spec.line_length + 1) == 0:
            best = np.full_like(best, SPECIAL.end_of_line)
        known = np.concatenate([known, best[:, None]], axis=1)
    return known


def ids_of(row):
    """The ids that a row holds, continuous patches having none."""
    ids = set()
    for stream in row.streams.values():
        is_id = (stream.position_BT >= 0) & (stream.token_id_BT != PADDING)
        ids |= set(stream.token_id_BT[is_id].tolist())
    return ids


def quick(run):
    return jax.jit(run, compiler_options=QUICK_TO_COMPILE)()


def captions(model, guided, allowed_V, **config):
    how = (allowed_V, SamplingConfig(**config).words, jax.random.key(0))
    return quick(lambda: decode_segment(model, guided, "caption", *how))


def decoded_image(model, guided):
    key = jax.random.key(0)
    drawn = quick(lambda: decode_segment(model, guided, "image", IS_CODE, GREEDY, key))
    return np.asarray(drawn)


CASES = {
    "next-token image": (COMPONENTS, NextToken(), "text_to_image", "image", IS_CODE),
    "next-token caption": ((), NextToken(), "image_to_text", "caption", IS_WORD),
    "masked-image caption": (
        COMPONENTS,
        MaskedImage(),
        "image_to_text",
        "caption",
        IS_WORD,
    ),
    "diffusion caption": ((), ImageDiffusion(), "image_to_text", "caption", IS_WORD),
}


@pytest.mark.parametrize("case", CASES)
def test_greedy_decoding_equals_rebuilding_the_row(case):
    untied, objective, task, segment, allowed_V = CASES[case]
    layout, model = setting(untied, objective, task)
    documents = documents_of(layout)
    guided = GuidedRows(rows_to_fill(documents, layout, segment))
    if segment == "caption":
        decoded = captions(model, guided, allowed_V)
    else:
        decoded = decoded_image(model, guided)
    expected = rebuilt(model, layout, segment, allowed_V, lambda x: x, documents)
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.dtype == np.int32
    assert allowed_V[expected].all()
    assert len(np.unique(expected)) > 1


def test_what_the_row_has_is_penalised_token_by_token():
    untied, objective, task, segment, allowed_V = CASES["diffusion caption"]
    layout, model = setting(untied, objective, task)
    documents = documents_of(layout)
    guided = GuidedRows(rows_to_fill(documents, layout, segment))
    decoded = captions(model, guided, allowed_V, repetition_penalty=2.0)
    oracle = functools.partial(
        rebuilt, model, layout, segment, allowed_V, lambda x: x, documents
    )
    np.testing.assert_array_equal(decoded, oracle(penalty=2.0))
    assert (decoded != oracle()).any()


def test_guided_logits_decide_and_both_halves_are_filled():
    layout, model = setting(COMPONENTS, NextToken(), "text_to_image")
    prompted, others = documents_of(layout), documents_of(layout, seed=4)
    lengths = [[len(d.tokens["prompt"]) for d in ds] for ds in (prompted, others)]
    assert lengths[0] != lengths[1]
    guided = GuidedRows.pair(
        rows_to_fill(prompted, layout, "image"),
        rows_to_fill(others, layout, "image"),
        3.0,
    )
    decoded = decoded_image(model, guided)
    oracle = functools.partial(rebuilt, model, layout, "image", IS_CODE)
    expected = oracle(lambda x, y: y + 3.0 * (x - y), prompted, others)
    np.testing.assert_array_equal(decoded, expected)
    assert (expected != oracle(lambda x: x, prompted)).any()


def test_lines_end_where_they_must_and_the_ends_are_dropped_again():
    layout, model = setting((), NextToken(), "text_to_image", LINED)
    documents = documents_of(layout)
    guided = GuidedRows(rows_to_fill(documents, layout, "image"))
    decoded = decoded_image(model, guided)
    expected = rebuilt(model, layout, "image", IS_CODE, lambda x: x, documents)
    np.testing.assert_array_equal(decoded, expected)
    ends = np.array([False, False, True, False, False, True])
    assert (decoded[:, ends] == SPECIAL.end_of_line).all()
    assert IS_CODE[decoded[:, ~ends]].all()
    codes = without_line_ends(decoded, line_length=2)
    np.testing.assert_array_equal(codes, decoded[:, ~ends])
    np.testing.assert_array_equal(without_line_ends(decoded, 0), decoded)


def test_sampling_depends_on_the_key_and_differs_between_rows_alike():
    layout, model = setting(COMPONENTS, NextToken(), "text_to_image")
    documents = documents_of(layout)[:1] * NUM_ROWS
    guided = GuidedRows(rows_to_fill(documents, layout, "image"))
    decode = jax.jit(
        lambda key: decode_segment(
            model, guided, "image", IS_CODE, TokenSampler(temperature=5.0), key
        ),
        compiler_options=QUICK_TO_COMPILE,
    )
    first, again, other = (np.asarray(decode(jax.random.key(n))) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()
    assert IS_CODE[first].all()
