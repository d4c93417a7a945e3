"""Decoding token by token equals rebuilding the row from what is known so far."""

import jax
import numpy as np
import pytest

from tests.generation.recorded_model import FixedLogits
from tests.models.tiny_model import (
    CODE_IDS,
    SIZES,
    TEXT_IDS,
    VOCABULARY_SIZE,
    forward,
    random_document,
    random_variables,
    stack,
    tiny_spec,
)
from unimod_jax.generation import GuidedRows, caption_images, decode_segment
from unimod_jax.layout import IMAGE, TEXT, Document, lay_out, special_tokens
from unimod_jax.models import MixtureOfDepths
from unimod_jax.objectives import IMAGE_TO_TEXT, TEXT_TO_IMAGE, MaskedImage, NextToken

MODALITIES = (TEXT, IMAGE)
# Every layer routes both tasks, so decoding has to be causal in its selection too.
SPEC = tiny_spec(
    routing=MixtureOfDepths((0, 1), (TEXT_TO_IMAGE, IMAGE_TO_TEXT), keep_ratio=0.6)
)
IS_CODE = np.isin(np.arange(VOCABULARY_SIZE), CODE_IDS)
IS_WORD = np.isin(np.arange(VOCABULARY_SIZE), [*TEXT_IDS, special_tokens.END])


def documents_of(layout, num_rows=2, seed=3):
    rng = np.random.default_rng(seed)
    return [random_document(layout, rng) for _ in range(num_rows)]


def with_empty_slots(document, layout, segment):
    """The row to fill: padding ids in the segment's slots."""
    slots = layout.slot_range(segment)[2]
    tokens = {**document.tokens, segment: [special_tokens.PADDING] * slots}
    return lay_out(Document(tokens), layout, MODALITIES)


def variables_for(layout):
    rows = [lay_out(document, layout, MODALITIES) for document in documents_of(layout)]
    return random_variables(SPEC, {layout.task: stack(rows)})


def model_of(layout, variables):
    def run(group):
        return forward(SPEC)(variables, {layout.task: group})[0][layout.task]

    return run


def slow_greedy(model, documents, layout, segment, allowed_V):
    """One row at a time, the row holding nothing after the last known token."""
    names = [spec.name for spec in layout.segments]
    before = names[: names.index(segment)]
    slots = layout.slot_range(segment)[2]
    known = [[] for _ in documents]
    for _ in range(slots):
        rows = []
        for document, filled in zip(documents, known, strict=True):
            tokens = {name: document.tokens[name] for name in before}
            rows.append(
                lay_out(Document({**tokens, segment: filled}), layout, MODALITIES)
            )
        group = stack(rows)
        logits = model(group).logits
        for row, filled in enumerate(known):
            # The token that stands last, in whichever stream it is stored.
            last = max(
                (int(position), name, slot)
                for name, stream in group.streams.items()
                for slot, position in enumerate(np.asarray(stream.position_BT[row]))
            )
            scores = np.asarray(logits[last[1]][row, last[2]])
            filled.append(int(np.argmax(np.where(allowed_V, scores, -np.inf))))
    return np.array(known)


@pytest.mark.parametrize(
    ("objective", "task", "segment", "allowed_V"),
    [
        (NextToken(), TEXT_TO_IMAGE, "image", IS_CODE),
        (NextToken(), IMAGE_TO_TEXT, "caption", IS_WORD),
        (MaskedImage(), IMAGE_TO_TEXT, "caption", IS_WORD),
    ],
    ids=["next-token image", "next-token caption", "masked-image caption"],
)
def test_greedy_decoding_equals_rebuilding_the_row(objective, task, segment, allowed_V):
    layout = objective.layouts(SIZES, SPEC.untying.streams())[task]
    model = model_of(layout, variables_for(layout))
    documents = documents_of(layout)
    rows = stack([with_empty_slots(d, layout, segment) for d in documents])
    decoded = decode_segment(
        model, GuidedRows(rows, 1.0), segment, allowed_V, 0.0, jax.random.key(0)
    )
    expected = slow_greedy(model, documents, layout, segment, allowed_V)
    np.testing.assert_array_equal(decoded, expected)
    assert allowed_V[expected].all()
    assert len(np.unique(expected)) > 1


def rows_to_fill(num_rows=2, seed=3):
    layout = NextToken().layouts(SIZES, SPEC.untying.streams())[TEXT_TO_IMAGE]
    documents = documents_of(layout, num_rows, seed)
    return stack([with_empty_slots(d, layout, "image") for d in documents])


def fixed_logits(num_rows):
    """Logits that differ by slot and prefer ids that are not allowed."""
    rng = np.random.default_rng(5)
    logits = {}
    for name, slots in ((TEXT, 7), (IMAGE, SIZES.image_tokens)):
        values = 3 * rng.normal(size=(num_rows, slots, VOCABULARY_SIZE))
        values[:, :, 0] += 100.0
        logits[name] = values.astype(np.float32)
    return logits


def test_each_slot_is_decoded_from_the_token_before_it_across_streams():
    model = FixedLogits(fixed_logits(2))
    guided = GuidedRows(rows_to_fill(), 1.0)
    decoded = decode_segment(model, guided, "image", IS_CODE, 0.0, jax.random.key(0))
    stream, begin_image, _ = guided.rows.layout.slot_range("begin_image")
    assert stream == TEXT
    predicting = np.concatenate(
        [model.logits[TEXT][:, [begin_image]], model.logits[IMAGE][:, :-1]], axis=1
    )
    best = np.where(IS_CODE, predicting, -np.inf).argmax(axis=-1)
    np.testing.assert_array_equal(decoded, best)
    # Each call shows what was decoded before it, and padding in what is to come.
    for step, shown in enumerate(model.shown):
        np.testing.assert_array_equal(shown[IMAGE][:, :step], best[:, :step])
        np.testing.assert_array_equal(shown[IMAGE][:, step:], 0)


def test_guided_logits_decide_and_both_halves_are_filled():
    model = FixedLogits(fixed_logits(4))
    guided = GuidedRows.pair(rows_to_fill(), rows_to_fill(seed=4), 2.0)
    decoded = decode_segment(model, guided, "image", IS_CODE, 0.0, jax.random.key(0))
    _, begin_image, _ = guided.rows.layout.slot_range("begin_image")
    both = np.concatenate(
        [model.logits[TEXT][:, [begin_image]], model.logits[IMAGE][:, :-1]], axis=1
    )
    combined = 2.0 * both[:2] - both[2:]
    best = np.where(IS_CODE, combined, -np.inf).argmax(axis=-1)
    np.testing.assert_array_equal(decoded, best)
    np.testing.assert_array_equal(
        model.shown[-1][IMAGE][:2], model.shown[-1][IMAGE][2:]
    )


def test_sampling_draws_allowed_ids_in_proportion_to_their_shares():
    num_rows = 400
    logits = np.full((num_rows, 7, VOCABULARY_SIZE), 9.0, np.float32)
    logits[:, :, CODE_IDS] = -30.0
    shares = {CODE_IDS[0]: 0.64, CODE_IDS[3]: 0.36}
    for code, share in shares.items():
        logits[:, :, code] = np.log(share)
    model = FixedLogits({TEXT: logits, IMAGE: logits[:, : SIZES.image_tokens]})
    guided = GuidedRows(rows_to_fill(num_rows), 1.0)
    for temperature, expected in ((1.0, 0.64), (0.5, 0.64**2 / (0.64**2 + 0.36**2))):
        drawn = decode_segment(
            model, guided, "image", IS_CODE, temperature, jax.random.key(0)
        )
        assert set(np.unique(drawn)) == set(shares)
        assert abs(np.mean(drawn == CODE_IDS[0]) - expected) < 0.04


def test_captions_are_greedy_and_fill_the_segment():
    layout = NextToken().layouts(SIZES, SPEC.untying.streams())[IMAGE_TO_TEXT]
    rows = stack([with_empty_slots(d, layout, "caption") for d in documents_of(layout)])
    rng = np.random.default_rng(0)
    shapes = {name: s.position_BT.shape for name, s in rows.streams.items()}
    model = FixedLogits(
        {
            name: rng.normal(size=(*shape, VOCABULARY_SIZE)).astype(np.float32)
            for name, shape in shapes.items()
        }
    )
    captions = np.asarray(caption_images(model, GuidedRows(rows, 1.0), IS_WORD))
    assert captions.shape == (2, SIZES.caption_tokens + 1)
    assert IS_WORD[captions].all()
    _, first, slots = layout.slot_range("caption")
    predicting = model.logits[TEXT][:, first - 1 : first + slots - 1]
    best = np.where(IS_WORD, predicting, -np.inf).argmax(axis=-1)
    np.testing.assert_array_equal(captions, best)
