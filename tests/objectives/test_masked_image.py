"""Hiding image codes: how many, which, and what they predict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import random_batch, random_group, tiny_spec
from tests.task_rows import layouts
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    PartSizes,
    Piece,
    SpecialTokens,
    Stream,
    Task,
    rows_of_task,
)
from unimod_jax.objectives import MaskedImage
from unimod_jax.objectives.masked_image import choose_hidden, hide_image_codes

SPECIAL = SpecialTokens()

NUM_ROWS, NUM_CODES = 64, 16
SIZES = PartSizes(text_tokens=3, image_codes=NUM_CODES)
STREAM_CHOICES = {
    "one stream": (Stream.of(TEXT, IMAGE),),
    "two streams": (Stream.of(TEXT), Stream.of(IMAGE)),
}


def rows(streams=STREAM_CHOICES["two streams"], **options):
    """Task -> layout of Show-o's rows."""
    return layouts(MaskedImage(), SIZES, streams, **options)


@pytest.fixture(scope="module", params=STREAM_CHOICES)
def hidden_and_whole(request):
    """(stream, image slots, rows with hidden codes, the same rows whole)."""
    layout = rows(STREAM_CHOICES[request.param])["text_to_image"]
    whole = random_group(layout, NUM_ROWS)
    hidden = hide_by_chance(whole, jax.random.key(0))
    stream, start, count = layout.slot_range("image")
    return stream, slice(start, start + count), hidden, whole


@jax.jit
def hide_by_chance(group, key):
    hidden_BN = choose_hidden((NUM_ROWS, NUM_CODES), key)
    return hide_image_codes(group, "image", hidden_BN)


def is_hidden(stream, group):
    return np.asarray(group.streams[stream].token_id_BT) == SPECIAL.mask


def test_only_hidden_codes_are_targets_and_they_predict_themselves(hidden_and_whole):
    stream, _, hidden, whole = hidden_and_whole
    hidden_BT = is_hidden(stream, hidden)
    target_modality_BT = np.asarray(hidden.streams[stream].target_modality_BT)
    np.testing.assert_array_equal(target_modality_BT >= 0, hidden_BT)
    assert (target_modality_BT[hidden_BT] == 1).all()
    np.testing.assert_array_equal(
        np.asarray(hidden.streams[stream].target_id_BT)[hidden_BT],
        np.asarray(whole.streams[stream].token_id_BT)[hidden_BT],
    )


def test_tokens_that_are_not_hidden_are_unchanged(hidden_and_whole):
    stream, image, hidden, whole = hidden_and_whole
    hidden_BT = is_hidden(stream, hidden)
    outside_BT = np.ones_like(hidden_BT)
    outside_BT[:, image] = False
    assert not (hidden_BT & outside_BT).any()
    np.testing.assert_array_equal(
        np.asarray(hidden.streams[stream].token_id_BT)[~hidden_BT],
        np.asarray(whole.streams[stream].token_id_BT)[~hidden_BT],
    )
    for name in whole.streams:
        for field in ("position_BT", "window_end_BT", "modality_BT", "patch_index_BT"):
            np.testing.assert_array_equal(
                getattr(hidden.streams[name], field),
                getattr(whole.streams[name], field),
            )


def test_every_row_hides_at_least_one_code_and_rows_differ(hidden_and_whole):
    stream, image, hidden, _ = hidden_and_whole
    hidden_BN = is_hidden(stream, hidden)[:, image]
    count_B = hidden_BN.sum(axis=1)
    assert count_B.min() >= 1
    assert len(np.unique(count_B)) > NUM_CODES // 2
    assert len(np.unique(hidden_BN, axis=0)) > NUM_ROWS // 2


def test_the_hidden_share_follows_the_cosine_schedule():
    layout = rows()["text_to_image"]
    group = random_group(layout, NUM_ROWS)
    share = np.concatenate(
        [
            is_hidden(IMAGE, hide_by_chance(group, jax.random.key(seed))).mean(axis=1)
            for seed in range(30)
        ]
    )
    # t uniform makes cos(pi t / 2) of mean 2 / pi and median cos(pi / 4).
    assert abs(share.mean() - 2 / np.pi) < 0.02
    assert abs(np.median(share) - np.sqrt(0.5)) < 0.05


def test_each_place_is_hidden_equally_often():
    layout = rows()["text_to_image"]
    group = random_group(layout, NUM_ROWS)
    share_N = np.mean(
        [
            is_hidden(IMAGE, hide_by_chance(group, jax.random.key(seed))).mean(axis=0)
            for seed in range(30)
        ],
        axis=0,
    )
    assert np.abs(share_N - 2 / np.pi).max() < 0.06


def test_only_text_to_image_rows_are_corrupted():
    spec = tiny_spec()
    batch = random_batch(MaskedImage(), spec)
    seen, noise = MaskedImage().corrupt(batch, jax.random.key(0))
    assert noise == {}
    assert seen.keys() == batch.keys()
    for task in ("image_to_text", "text_only"):
        assert seen[task] is batch[task]
    assert is_hidden(IMAGE, seen["text_to_image"]).any()
    without = {"text_only": batch["text_only"]}
    assert MaskedImage().corrupt(without, jax.random.key(0)) == (without, {})


def test_every_image_that_is_written_is_hidden_by_a_key_of_its_own():
    """Two images to write, around one that is shown, in a task of one's own."""
    written = {"written": True, "predicted_by": "itself", "span": "image"}
    pieces = (
        Piece("first", IMAGE, part="image", **written),
        Piece("shown", IMAGE, part="image", predicted_by="nothing"),
        Piece.fixed("between", 12),
        Piece("second", IMAGE, part="image", **written),
    )
    layout = rows_of_task(
        Task("triptych", pieces), SIZES, STREAM_CHOICES["two streams"]
    )
    group = random_group(layout, NUM_ROWS)
    batch = {"triptych": group}
    seen = MaskedImage().corrupt(batch, jax.random.key(0))[0]["triptych"]
    hidden_BT = is_hidden(IMAGE, seen)
    first_BN, shown_BN, second_BN = np.split(hidden_BT, 3, axis=1)
    assert first_BN.any(axis=1).all() and second_BN.any(axis=1).all()
    assert not shown_BN.any()
    assert abs(np.corrcoef(first_BN.sum(1), second_BN.sum(1))[0, 1]) < 0.4
    target_BT = np.asarray(seen.streams[IMAGE].target_modality_BT)
    np.testing.assert_array_equal(target_BT >= 0, hidden_BT)
    # And it hides the same codes whatever other tasks there are.
    other = random_group(rows()["text_to_image"], NUM_ROWS)
    beside, _ = MaskedImage().corrupt(
        {"text_to_image": other} | batch, jax.random.key(0)
    )
    np.testing.assert_array_equal(is_hidden(IMAGE, beside["triptych"]), hidden_BT)


def test_understanding_rows_may_hide_a_share_of_their_codes_without_new_targets():
    layout = rows(understanding_hidden_share=0.25)["image_to_text"]
    group = random_group(layout, NUM_ROWS)
    seen, _ = MaskedImage().corrupt({"image_to_text": group}, jax.random.key(0))
    share = is_hidden(IMAGE, seen["image_to_text"]).mean()
    assert abs(share - 0.25) < 0.05
    assert not (seen["image_to_text"].streams[IMAGE].target_modality_BT >= 0).any()
    assert seen["image_to_text"].streams[TEXT] is group.streams[TEXT]


def test_understanding_rows_predict_their_caption_and_nothing_else():
    layout = rows()["image_to_text"]
    group = random_group(layout, 4)
    assert set(layout.target_modalities) == {TEXT}
    assert not (np.asarray(group.streams[IMAGE].target_modality_BT) >= 0).any()
    text = group.streams[TEXT]
    targets = jnp.sum((text.target_modality_BT >= 0).astype(jnp.int32))
    _, first, slots = layout.slot_range("caption")
    caption_BT = text.position_BT[:, first : first + slots] >= 0
    assert int(targets) == int(jnp.sum(caption_BT.astype(jnp.int32)))
