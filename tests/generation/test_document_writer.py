"""Documents of several modalities, written token by token, equal whole-row passes."""

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
    with_head_bias,
)
from tests.models.tiny_model import (
    DENSE_DEPTH,
    QUICK_TO_COMPILE,
    SIZES,
    random_group,
    stack,
    tiny_spec,
)
from tests.task_rows import layouts
from unimod_jax.generation import (
    NO_TOKEN,
    BoundModel,
    DocumentWriter,
    Grammar,
    GuidedRows,
    TokenSampler,
    without_text,
    write_documents,
)
from unimod_jax.generation.document_grammar import Progress
from unimod_jax.layout import (
    IMAGE,
    SPEECH,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    SpecialTokens,
    lay_out_documents,
)
from unimod_jax.mot import COMPONENTS
from unimod_jax.objectives import NextToken

SPECIAL = SpecialTokens()

BEGIN, END = SPECIAL.begin, SPECIAL.end
BEGIN_IMAGE, END_IMAGE = SPECIAL.begin_image, SPECIAL.end_image
BEGIN_SPEECH, END_SPEECH = SPECIAL.begin_speech, SPECIAL.end_speech
END_OF_LINE = SPECIAL.end_of_line
MODALITIES = (TEXT, IMAGE, SPEECH)
SLOTS = ((TEXT, 12), (IMAGE, 12), (SPEECH, 5))
GRAMMAR = Grammar(24, ((12, 16),), (16, 20), (20, 24), image_slots=6, line_length=2)
GREEDY = TokenSampler(temperature=0.0)
# Four rows of different lengths, whose next tokens are of three modalities.
PROMPTS = [
    [BEGIN, 12, 13, BEGIN_IMAGE],
    [BEGIN, 14, BEGIN_SPEECH],
    [BEGIN, 15, 12, 14, 13],
    [BEGIN, BEGIN_IMAGE, 16, 17, END_OF_LINE, 18, 19, END_OF_LINE, END_IMAGE, 14],
]
NUM_TOKENS = 14


def document_of(ids):
    """Ids cut into spans by what they are."""
    spans, in_image = [], False
    for token in ids:
        in_image = in_image and token != END_IMAGE
        unit = SPEECH if 20 <= token < 24 else TEXT
        spans.append(Span(IMAGE if in_image else unit, [token]))
        in_image = in_image or token == BEGIN_IMAGE
    return InterleavedDocument(tuple(spans))


def rows_of(documents, layout):
    """One document per row."""
    return stack([lay_out_documents([document_of(ids)], layout) for ids in documents])


def setting(untied, depth, seed=1):
    """(layout, model that likes to open and to end)."""
    spec = tiny_spec(untied, depth, modalities=MODALITIES, biases=True)
    spec = dataclasses.replace(spec, image_tokens=GRAMMAR.image_slots)
    layout = InterleavedLayout("interleaved", spec.streams, SLOTS, line_length=2)
    bound = bound_model(spec, rows_of(PROMPTS, layout), seed)
    likes = {END: 0.5, BEGIN_IMAGE: 0.5, BEGIN_SPEECH: 0.5, 21: 1.0, 22: 1.0}
    return layout, with_head_bias(bound, likes)


@functools.partial(
    jax.jit, static_argnames="sampler", compiler_options=QUICK_TO_COMPILE
)
def written(bound, guided, sampler=GREEDY):
    key = jax.random.key(0)
    return write_documents(bound, guided, GRAMMAR, sampler, NUM_TOKENS, key)


@jax.jit
def progress_after(progress, id_B, adds_B):
    after = progress.advance(id_B, GRAMMAR)
    return jax.tree.map(lambda old, new: jnp.where(adds_B, new, old), progress, after)


def taken(ids, modality):
    """How many of the ids are of a modality."""
    is_code = np.isin(ids, [*range(16, 20), END_OF_LINE])
    is_unit = np.isin(ids, range(20, 24))
    of = {TEXT: ~is_code & ~is_unit, IMAGE: is_code, SPEECH: is_unit}
    return int(of[modality].sum())


def rebuilt(bound, layout, combine, *prompt_sets, penalty=1.0):
    """Greedy writing that lays out and runs whole rows for every token.

    Images are guided, by rows that get nothing but images, and what a row has already
    is penalised in text.
    """
    prompts = prompt_sets[0]
    room = {
        name: jnp.asarray([slots - taken(ids, name) for ids in prompts], jnp.int32)
        for name, slots in SLOTS
    }
    last_B = jnp.asarray([prompt[-1] for prompt in prompts], jnp.int32)
    progress = Progress.after_prompt(last_B, room, GRAMMAR)
    known_sets = [[[] for _ in prompts] for _ in prompt_sets]
    for _ in range(NUM_TOKENS):
        documents = [
            [prompt + ids for prompt, ids in zip(begun, known, strict=True)]
            for begun, known in zip(prompt_sets, known_sets, strict=True)
        ]
        every = [next_logits(bound, rows_of(each, layout)) for each in documents]
        in_image, in_text = np.asarray(progress.in_image), np.asarray(progress.in_text)
        logits = np.where(in_image[:, None], combine(*every), every[0])
        for row in np.flatnonzero(in_text):
            has = sorted(set(documents[0][row]))
            logits[row, has] *= penalty ** -np.sign(logits[row, has])
        allowed = np.asarray(progress.allowed(GRAMMAR))
        best = np.where(allowed, logits, -np.inf).argmax(axis=1)
        ended = np.asarray(progress.ended)
        for row, token in enumerate(best):
            of_image = in_image[row] or token in (BEGIN_IMAGE, END_IMAGE)
            for index, known in enumerate(known_sets):
                if not ended[row] and (of_image or index == 0):
                    known[row].append(int(token))
        progress = progress_after(
            progress, jnp.asarray(best, jnp.int32), jnp.asarray(~ended)
        )
    return known_sets[0]


def as_array(known):
    filled = [ids + [NO_TOKEN] * (NUM_TOKENS - len(ids)) for ids in known]
    return np.array(filled)


@pytest.mark.parametrize(
    ("untied", "depth", "seed"),
    [((), DENSE_DEPTH, 1), (COMPONENTS, routing(), 6)],
    ids=["dense", "routed towers"],
)
def test_writing_equals_running_whole_rows_for_every_token(untied, depth, seed):
    layout, bound = setting(untied, depth, seed)
    ids_BT = np.asarray(written(bound, GuidedRows(rows_of(PROMPTS, layout))))
    known = rebuilt(bound, layout, lambda x: x, PROMPTS)
    np.testing.assert_array_equal(ids_BT, as_array(known))
    # Some rows end before others, and each modality is written.
    lengths = {len(ids) for ids in known}
    assert len(lengths) > 1
    every = np.concatenate(known)
    for start, end in (*GRAMMAR.words, GRAMMAR.image, GRAMMAR.speech):
        assert ((every >= start) & (every < end)).any()


def test_images_are_guided_in_three_ways_and_repetitions_penalised_in_text():
    layout, bound = setting(COMPONENTS, DENSE_DEPTH, seed=6)
    prompts = [*PROMPTS[:3], [*PROMPTS[3], BEGIN_IMAGE]]
    documents = [without_text(document_of(ids), SPECIAL) for ids in prompts]
    images = [[i for span in d.spans for i in span.tokens] for d in documents]
    assert [len(ids) for ids in images] == [2, 1, 1, 10]
    nothing = [[BEGIN, BEGIN_IMAGE], [BEGIN], [BEGIN], [BEGIN, BEGIN_IMAGE]]
    sets = (prompts, images, nothing)
    guided = GuidedRows.triple(*(rows_of(each, layout) for each in sets), 3.0, 1.2)
    penalised = TokenSampler(0.0, repetition_penalty=2.0)
    ids_BT = np.asarray(written(bound, guided, penalised))

    def combine(full, images, nothing):
        return nothing + 1.2 * (images - nothing) + 3.0 * (full - images)

    known = rebuilt(bound, layout, combine, *sets, penalty=2.0)
    np.testing.assert_array_equal(ids_BT, as_array(known))
    # Each of the two makes a difference.
    assert known != rebuilt(bound, layout, combine, *sets)
    assert known != rebuilt(bound, layout, lambda x, *_: x, *sets, penalty=2.0)
    # An image is opened after text, which the rows with less must not have seen.
    assert 12 <= known[1][known[1].index(BEGIN_IMAGE) - 1] < 16


def test_writing_stops_when_every_row_has_ended():
    layout, bound = setting((), DENSE_DEPTH)
    bound = with_head_bias(bound, {END: 100.0, END_SPEECH: 100.0})
    guided = GuidedRows(rows_of([[BEGIN], [BEGIN, 12, BEGIN_SPEECH]], layout))
    writer = DocumentWriter(bound, guided, GRAMMAR, GREEDY)

    @functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def write(writer):
        before = writer.start()
        ids_BT, after = writer.write_tokens(before, 5, jax.random.key(0))
        return before, ids_BT, after, writer.write_tokens(after, 5, jax.random.key(1))

    before, ids_BT, after, (nothing_BT, still) = write(writer)
    no = NO_TOKEN
    np.testing.assert_array_equal(
        ids_BT, [[END, no, no, no, no], [END_SPEECH, END, no, no, no]]
    )
    np.testing.assert_array_equal(after.position_B - before.position_B, [1, 2])
    np.testing.assert_array_equal(nothing_BT, NO_TOKEN)
    jax.tree.map(np.testing.assert_array_equal, after, still)


def test_rows_of_fixed_segments_are_refused():
    layout = layouts(NextToken(), SIZES, tiny_spec().streams)["text_to_image"]
    guided = GuidedRows(random_group(layout))
    writer = DocumentWriter(BoundModel(None, {}), guided, GRAMMAR, GREEDY)
    with pytest.raises(ValueError, match="TaskLayout, which fixes what comes next"):
        writer.start()
