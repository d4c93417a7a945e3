"""The grammar of written documents, on random walks through what it allows."""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unimod_jax.generation.document_grammar import Grammar, Progress
from unimod_jax.layout import IMAGE, SPEECH, TEXT, SpecialTokens

SPECIAL = SpecialTokens()

BEGIN, END = SPECIAL.begin, SPECIAL.end
BEGIN_IMAGE, END_IMAGE = SPECIAL.begin_image, SPECIAL.end_image
BEGIN_SPEECH, END_SPEECH = SPECIAL.begin_speech, SPECIAL.end_speech
END_OF_LINE = SPECIAL.end_of_line
# Words 12 to 15, codes 16 to 19, units 20 to 23; two lines of two codes.
LINED = Grammar(24, ((12, 16),), (16, 20), (20, 24), image_slots=6, line_length=2)
PLAIN = dataclasses.replace(LINED, image_slots=4, line_length=0)
NUM_ROWS = 4


def room(text=20, image=12, speech=6):
    """The same room in every row."""
    counts = {TEXT: text, IMAGE: image, SPEECH: speech}
    return {name: jnp.full((NUM_ROWS,), n, jnp.int32) for name, n in counts.items()}


def after_prompts(last_ids, slots, grammar):
    return Progress.after_prompt(jnp.asarray(last_ids, jnp.int32), slots, grammar)


def walk(progress, grammar, want, num_steps):
    """Ids per row: at each step the allowed id that is wanted most."""
    written = [[] for _ in range(NUM_ROWS)]
    for index in range(num_steps):
        ended_B = np.asarray(progress.ended)
        id_B, progress = step(progress, want(index), grammar)
        for row, token, ended in zip(written, np.asarray(id_B), ended_B, strict=True):
            if not ended:
                row.append(int(token))
    return written, progress


@functools.partial(jax.jit, static_argnames="grammar")
def step(progress, want_BV, grammar):
    allowed_BV = progress.allowed(grammar)
    id_B = jnp.argmax(jnp.where(allowed_BV, want_BV, -jnp.inf), axis=1)
    id_B = id_B.astype(jnp.int32)
    after = progress.advance(id_B, grammar)
    ended_B = progress.ended
    after = jax.tree.map(lambda old, new: jnp.where(ended_B, old, new), progress, after)
    return id_B, after


def parse(ids, grammar):
    """Pops the documents' parts off in plain Python; (slots used, whether complete)."""
    ids, used = list(ids), {TEXT: 0, IMAGE: 0, SPEECH: 0}
    while ids:
        token = ids.pop(0)
        used[TEXT] += 1
        if token == END:
            assert not ids
            return used, True
        if token == BEGIN_IMAGE:
            for place in range(min(grammar.image_slots, len(ids))):
                code = ids.pop(0)
                used[IMAGE] += 1
                line = grammar.line_length + 1
                if grammar.line_length and place % line == line - 1:
                    assert code == END_OF_LINE
                else:
                    assert 16 <= code < 20
            if ids:
                assert ids.pop(0) == END_IMAGE
                used[TEXT] += 1
        elif token == BEGIN_SPEECH:
            last = None
            while ids and ids[0] != END_SPEECH:
                assert 20 <= ids[0] < 24
                assert ids[0] != last
                last = ids.pop(0)
                used[SPEECH] += 1
            if ids:
                ids.pop(0)
                used[TEXT] += 1
        else:
            assert 12 <= token < 16
    return used, False


@hypothesis.given(
    seed=st.integers(0, 10**6),
    text=st.integers(1, 12),
    image=st.integers(0, 13),
    speech=st.integers(0, 4),
    grammar=st.sampled_from([LINED, PLAIN]),
)
def test_whatever_is_wanted_the_document_is_grammatical_and_fits(
    seed, text, image, speech, grammar
):
    rng = np.random.default_rng(seed)
    slots = room(text, image, speech)
    start = after_prompts([BEGIN] * NUM_ROWS, slots, grammar)
    wants = rng.normal(size=(40, NUM_ROWS, 24)).astype(np.float32)
    wants[:, :, END] -= 2.0
    wants[:, :, [BEGIN_IMAGE, BEGIN_SPEECH]] += 1.0
    written, progress = walk(
        start, grammar, lambda index: jnp.asarray(wants[index]), 40
    )
    assert np.asarray(progress.ended).all()
    for row, ids in enumerate(written):
        used, ended = parse(ids, grammar)
        assert used[TEXT] <= text and used[IMAGE] <= image and used[SPEECH] <= speech
        # It ends with its END, or because the row is full.
        assert ended or used[TEXT] == text
        for name, n in used.items():
            assert int(progress.room[name][row]) == int(slots[name][row]) - n


def wanting(*ids):
    """Wants these ids always, the first the most."""
    want_V = np.zeros(24, np.float32)
    for rank, token in enumerate(ids):
        want_V[token] = 10.0 - rank
    return lambda index: jnp.asarray(np.tile(want_V, (NUM_ROWS, 1)))


def test_images_have_all_their_codes_and_are_closed_whatever_is_wanted():
    start = after_prompts([BEGIN] * NUM_ROWS, room(), PLAIN)
    written, _ = walk(start, PLAIN, wanting(BEGIN_IMAGE, END, 13, 17), 8)
    assert written[0] == [BEGIN_IMAGE, 17, 17, 17, 17, END_IMAGE, BEGIN_IMAGE, 17]
    written, _ = walk(start, LINED, wanting(BEGIN_IMAGE, END_IMAGE, 17), 9)
    end = END_OF_LINE
    assert written[0] == [BEGIN_IMAGE, 17, 17, end, 17, 17, end, END_IMAGE, BEGIN_IMAGE]


def test_speech_does_not_repeat_a_unit_and_ends_when_it_wants_or_must():
    start = after_prompts([BEGIN] * NUM_ROWS, room(speech=5), PLAIN)
    written, _ = walk(start, PLAIN, wanting(BEGIN_SPEECH, 21, 22, END_SPEECH, END), 9)
    expected = [BEGIN_SPEECH, 21, 22, 21, 22, 21, END_SPEECH, END]
    assert written[0] == expected
    written, _ = walk(start, PLAIN, wanting(BEGIN_SPEECH, 21, END_SPEECH), 6)
    assert written[0] == [BEGIN_SPEECH, 21, END_SPEECH, BEGIN_SPEECH, 21, END_SPEECH]


def test_nothing_is_opened_that_does_not_fit():
    little = room(text=2, image=7, speech=0)
    wants = wanting(BEGIN_IMAGE, BEGIN_SPEECH, 13, 17)
    # Room for one image of four of the seven slots, and for its two markers.
    written, progress = walk(after_prompts([12] * 4, little, PLAIN), PLAIN, wants, 9)
    assert written[0] == [BEGIN_IMAGE, 17, 17, 17, 17, END_IMAGE]
    assert np.asarray(progress.ended).all()
    # One text slot cannot hold both markers.
    written, _ = walk(after_prompts([12] * 4, room(1), PLAIN), PLAIN, wants, 9)
    assert written[0] == [13]


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        (room(text=1), [[17], [21], [13], [13]]),
        (room(text=1, image=3, speech=0), [[13]] * 4),
        (room(text=0), [[], [], [], []]),
    ],
    ids=["room for all", "room for text", "no room"],
)
def test_prompts_may_end_with_an_opening(slots, expected):
    last = [BEGIN_IMAGE, BEGIN_SPEECH, 13, END]
    start = after_prompts(last, slots, PLAIN)
    written, _ = walk(start, PLAIN, wanting(13, 17, 21), 1)
    assert written == expected


def test_continuous_images_come_whole():
    grammar = Grammar(24, ((12, 16),), image_slots=4)
    start = after_prompts([BEGIN_IMAGE] * NUM_ROWS, room(), grammar)
    assert not grammar.writes_images and PLAIN.writes_images
    np.testing.assert_array_equal(start.in_image, True)
    after = start.with_image(grammar)
    np.testing.assert_array_equal(after.room[IMAGE], 8)
    written, _ = walk(after, grammar, wanting(BEGIN_IMAGE), 2)
    assert written[0] == [END_IMAGE, BEGIN_IMAGE]
