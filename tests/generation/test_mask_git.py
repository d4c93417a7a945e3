"""Parallel decoding: all codes at the end, most certain first, none taken back."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generation.recorded_model import FixedLogits
from tests.generation.token_by_token import bound_model
from tests.models.tiny_model import CODE_IDS, VOCABULARY_SIZE, random_group, tiny_spec
from tests.task_rows import layouts
from unimod_jax.generation import GuidedRows, RevealSchedule, reveal_codes
from unimod_jax.layout import IMAGE, TEXT, PartSizes, SpecialTokens, Stream
from unimod_jax.objectives import MaskedImage

SPECIAL = SpecialTokens()

NUM_TOKENS, NUM_STEPS, NUM_ROWS = 12, 5, 3
SIZES = PartSizes(text_tokens=3, image_codes=NUM_TOKENS, image_patches=4)
STREAM_CHOICES = {
    "one stream": (Stream.of(TEXT, IMAGE),),
    "two streams": (Stream.of(TEXT), Stream.of(IMAGE)),
}


def rows_of(streams, seed=0):
    layout = layouts(MaskedImage(), SIZES, streams)["text_to_image"]
    return random_group(layout, NUM_ROWS, seed)


def random_logits(group, num_rows=NUM_ROWS):
    """Logits that would rather say a text id than any code."""
    rng = np.random.default_rng(7)
    logits = {}
    for name, stream in group.streams.items():
        slots = stream.position_BT.shape[1]
        logits[name] = rng.normal(size=(num_rows, slots, VOCABULARY_SIZE)) * 2
        logits[name][:, :, 8] += 50.0
        logits[name] = logits[name].astype(np.float32)
    return logits


def reveal(forward, guided, temperature=1.0, num_steps=NUM_STEPS):
    codes = reveal_codes(
        forward,
        guided,
        "image",
        CODE_IDS.start,
        len(CODE_IDS),
        RevealSchedule(num_steps, temperature),
        jax.random.key(0),
    )
    return np.asarray(codes)


@pytest.fixture(scope="module", params=STREAM_CHOICES)
def run(request):
    """(group, image ids shown at each step [steps, B, N], final codes [B, N])."""
    group = rows_of(STREAM_CHOICES[request.param])
    forward = FixedLogits(random_logits(group))
    codes = reveal(forward, GuidedRows(group))
    stream, start, count = group.layout.slot_range("image")
    shown = np.stack([call[stream] for call in forward.shown])
    return group, shown, shown[:, :, start : start + count], codes


def test_every_code_is_revealed_and_in_range(run):
    *_, codes_BN = run
    assert codes_BN.shape == (NUM_ROWS, NUM_TOKENS)
    assert codes_BN.dtype == np.int32
    assert codes_BN.min() >= 0
    assert codes_BN.max() < len(CODE_IDS)
    assert len(np.unique(codes_BN)) > 2


def test_the_number_of_hidden_codes_follows_the_cosine(run):
    _, _, image_SBN, _ = run
    hidden_SB = (image_SBN == SPECIAL.mask).sum(axis=-1)
    progress = np.arange(NUM_STEPS) / NUM_STEPS
    expected = np.floor(NUM_TOKENS * np.cos(0.5 * np.pi * progress))
    assert expected[0] == NUM_TOKENS
    np.testing.assert_array_equal(hidden_SB, np.tile(expected[:, None], NUM_ROWS))


def test_revealed_codes_are_never_changed(run):
    _, _, image_SBN, codes_BN = run
    final = codes_BN + CODE_IDS.start
    steps = [*image_SBN, final]
    for before, after in itertools.pairwise(steps):
        revealed = before != SPECIAL.mask
        np.testing.assert_array_equal(after[revealed], before[revealed])


def test_the_text_of_the_row_is_shown_unchanged_at_every_step(run):
    group, shown_SBT, _, _ = run
    stream, start, count = group.layout.slot_range("image")
    text = np.ones(shown_SBT.shape[-1], bool)
    text[start : start + count] = False
    held = np.asarray(group.streams[stream].token_id_BT)[:, text]
    for shown in shown_SBT:
        np.testing.assert_array_equal(shown[:, text], held)


def test_at_temperature_zero_the_least_certain_codes_stay_hidden():
    group = rows_of(STREAM_CHOICES["two streams"])
    # Each place has one possible code; its log-share grows with the place.
    logits = np.full((NUM_ROWS, NUM_TOKENS, VOCABULARY_SIZE), -1e4, np.float32)
    share = np.linspace(0.55, 0.95, NUM_TOKENS)
    logits[:, :, CODE_IDS.start] = np.log(share)
    logits[:, :, CODE_IDS.start + 1] = np.log(1 - share)
    # Categorical sampling picks the likelier code almost surely at this sharpness.
    logits[:, :, CODE_IDS] *= 40
    forward = FixedLogits({IMAGE: logits})
    codes = reveal(forward, GuidedRows(group), temperature=0.0)
    np.testing.assert_array_equal(codes[:, 2:], 0)
    second = forward.shown[2][IMAGE] == SPECIAL.mask
    hidden = int(second[0].sum())
    assert 0 < hidden < NUM_TOKENS
    np.testing.assert_array_equal(second[:, :hidden], True)
    np.testing.assert_array_equal(second[:, hidden:], False)


def test_one_step_reveals_everything_at_once():
    group = rows_of(STREAM_CHOICES["two streams"])
    forward = FixedLogits(random_logits(group))
    codes = reveal(forward, GuidedRows(group), num_steps=1)
    assert len(forward.shown) == 1
    assert codes.min() >= 0


def test_guided_rows_with_and_without_prompt_show_the_same_codes():
    streams = STREAM_CHOICES["two streams"]
    guided = GuidedRows.pair(rows_of(streams), rows_of(streams, seed=1), 4.0)
    forward = FixedLogits(random_logits(guided.rows, 2 * NUM_ROWS))
    codes = reveal(forward, guided)
    assert codes.shape == (NUM_ROWS, NUM_TOKENS)
    for shown in forward.shown:
        np.testing.assert_array_equal(shown[IMAGE][:NUM_ROWS], shown[IMAGE][NUM_ROWS:])


def test_guidance_decides_between_codes():
    # Without guidance code 0 is likelier; the prompt speaks for code 1.
    streams = STREAM_CHOICES["two streams"]
    logits = np.full((2 * NUM_ROWS, NUM_TOKENS, VOCABULARY_SIZE), -100, np.float32)
    logits[:, :, CODE_IDS.start] = 60.0
    logits[:NUM_ROWS, :, CODE_IDS.start + 1] = 50.0
    logits[NUM_ROWS:, :, CODE_IDS.start + 1] = 20.0
    guided = GuidedRows.pair(rows_of(streams), rows_of(streams, seed=1), 3.0)
    codes = reveal(FixedLogits({IMAGE: logits}), guided)
    np.testing.assert_array_equal(codes, 1)
    plain = GuidedRows(rows_of(streams))
    codes = reveal(FixedLogits({IMAGE: logits[:NUM_ROWS]}), plain)
    np.testing.assert_array_equal(codes, 0)


def test_only_image_slots_meet_the_head_and_only_for_codes():
    spec = dataclasses.replace(tiny_spec(()), vocabulary_size=37)
    layout = layouts(MaskedImage(), SIZES, spec.streams)["text_to_image"]
    group = random_group(layout, NUM_ROWS)
    bound = bound_model(spec, group)

    def run(bound):
        schedule, key = RevealSchedule(NUM_STEPS), jax.random.key(0)
        codes = "image", CODE_IDS.start, len(CODE_IDS)
        return reveal_codes(bound, GuidedRows(group), *codes, schedule, key)

    program = str(jax.make_jaxpr(run)(bound))
    # The table and the head have 37 ids; no token has 37 logits.
    assert set(re.findall(r"f32\[([\d,]*\b37)\]", program)) == {"16,37"}
    assert f"f32[{NUM_ROWS * NUM_TOKENS},{len(CODE_IDS)}]" in program


def test_what_the_image_slots_held_does_not_matter():
    group = rows_of(STREAM_CHOICES["two streams"])
    other = group.with_stream(
        IMAGE, token_id_BT=jnp.zeros_like(group.streams[IMAGE].token_id_BT)
    )
    forward = FixedLogits(random_logits(group))
    first, second = (reveal(forward, GuidedRows(rows)) for rows in (group, other))
    np.testing.assert_array_equal(first, second)
    shown = forward.shown
    np.testing.assert_array_equal(shown[0][IMAGE], shown[NUM_STEPS][IMAGE])


def test_a_compounding_temperature_is_multiplied_at_every_step():
    """Steps of four: 3/4, then 1/2 of that, then 1/4 of that, then nothing."""
    schedule = RevealSchedule(4, temperature=2.0, compounding=True)
    cooled = [float(schedule.noise(step)) for step in jnp.arange(4)]
    np.testing.assert_allclose(cooled, [1.5, 0.75, 0.1875, 0.0], rtol=1e-6)
    linear = RevealSchedule(4, temperature=2.0)
    falling = [float(linear.noise(step)) for step in jnp.arange(4)]
    np.testing.assert_allclose(falling, [1.5, 1.0, 0.5, 0.0], rtol=1e-6)


def test_a_compounding_schedule_reveals_and_leaves_at_least_one_code():
    """Of three codes in eight steps: the cosine alone leaves all, later none."""
    hidden_BN = jnp.asarray([[True, True, True], [True, True, False]])
    counts = {
        compounding: [
            RevealSchedule(8, compounding=compounding)
            .num_hidden(step, 3, hidden_BN)
            .ravel()
            .tolist()
            for step in jnp.arange(7)
        ]
        for compounding in (False, True)
    }
    wanted = [2, 2, 2, 2, 1, 1, 0]  # floor(3 cos(pi s / 16)), s from 1 to 7
    assert counts[False] == [[number, number] for number in wanted]
    assert counts[True] == [[max(number, 1), 1] for number in wanted]


def test_compounding_steps_end_with_every_code_revealed():
    group = rows_of(STREAM_CHOICES["two streams"])
    forward = FixedLogits(random_logits(group))
    schedule = RevealSchedule(NUM_STEPS, compounding=True)
    codes = reveal_codes(
        forward,
        GuidedRows(group),
        "image",
        CODE_IDS.start,
        len(CODE_IDS),
        schedule,
        jax.random.key(0),
    )
    assert np.asarray(codes).min() >= 0
    shown = np.stack([np.asarray(rows[IMAGE]) for rows in forward.shown[:NUM_STEPS]])
    hidden_S = (shown == SPECIAL.mask).sum(axis=-1)[:, 0]
    assert (np.diff(hidden_S) < 0).all()
