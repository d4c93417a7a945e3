"""Hiding image codes: how many, which, and what they predict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_model import random_batch, random_group, tiny_spec
from unimod_jax.layout import IMAGE, TEXT, SpecialTokens, Stream
from unimod_jax.objectives import (
    IMAGE_TO_TEXT,
    TEXT_ONLY,
    TEXT_TO_IMAGE,
    MaskedImage,
    SequenceSizes,
)
from unimod_jax.objectives.masked_image import choose_hidden, hide_image_codes

SPECIAL = SpecialTokens()

NUM_ROWS, NUM_CODES = 64, 16
SIZES = SequenceSizes(caption_tokens=3, image_tokens=NUM_CODES, image_patches=4)
STREAM_CHOICES = {
    "one stream": (Stream.of(TEXT, IMAGE),),
    "two streams": (Stream.of(TEXT), Stream.of(IMAGE)),
}


@pytest.fixture(scope="module", params=STREAM_CHOICES)
def hidden_and_whole(request):
    """(stream, image slots, rows with hidden codes, the same rows whole)."""
    layout = MaskedImage().layouts(SIZES, STREAM_CHOICES[request.param])[TEXT_TO_IMAGE]
    whole = random_group(layout, NUM_ROWS)
    hidden = hide_by_chance(whole, jax.random.key(0))
    stream, start, count = layout.slot_range("image")
    return stream, slice(start, start + count), hidden, whole


@jax.jit
def hide_by_chance(group, key):
    return hide_image_codes(group, choose_hidden((NUM_ROWS, NUM_CODES), key))


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
    layout = MaskedImage().layouts(SIZES, STREAM_CHOICES["two streams"])[TEXT_TO_IMAGE]
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
    layout = MaskedImage().layouts(SIZES, STREAM_CHOICES["two streams"])[TEXT_TO_IMAGE]
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
    for task in (IMAGE_TO_TEXT, TEXT_ONLY):
        assert seen[task] is batch[task]
    assert is_hidden(IMAGE, seen[TEXT_TO_IMAGE]).any()
    without = {TEXT_ONLY: batch[TEXT_ONLY]}
    assert MaskedImage().corrupt(without, jax.random.key(0)) == (without, {})


def test_understanding_rows_may_hide_a_share_of_their_codes_without_new_targets():
    layout = MaskedImage().layouts(SIZES, STREAM_CHOICES["two streams"])[IMAGE_TO_TEXT]
    group = random_group(layout, NUM_ROWS)
    objective = MaskedImage(understanding_hidden_share=0.25)
    seen, _ = objective.corrupt({IMAGE_TO_TEXT: group}, jax.random.key(0))
    share = is_hidden(IMAGE, seen[IMAGE_TO_TEXT]).mean()
    assert abs(share - 0.25) < 0.05
    assert not (seen[IMAGE_TO_TEXT].streams[IMAGE].target_modality_BT >= 0).any()
    assert seen[IMAGE_TO_TEXT].streams[TEXT] is group.streams[TEXT]


def test_understanding_rows_predict_their_caption_and_nothing_else():
    layout = MaskedImage().layouts(SIZES, STREAM_CHOICES["two streams"])[IMAGE_TO_TEXT]
    group = random_group(layout, 4)
    assert set(layout.target_modalities) == {TEXT}
    assert not (np.asarray(group.streams[IMAGE].target_modality_BT) >= 0).any()
    text = group.streams[TEXT]
    targets = jnp.sum((text.target_modality_BT >= 0).astype(jnp.int32))
    _, first, slots = layout.slot_range("caption")
    caption_BT = text.position_BT[:, first : first + slots] >= 0
    assert int(targets) == int(jnp.sum(caption_BT.astype(jnp.int32)))
