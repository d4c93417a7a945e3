"""Batches are whole, random, and a pure function of the seed and the step."""

import contextlib
import dataclasses
import itertools
import json

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as orbax
import pytest

from unimod_jax.data import DataError, Records, Text, training_batches

ROWS = {"text_to_image": 12, "image_to_text": 8, "text_only": 4}


@pytest.fixture
def layouts(text_to_image, image_to_text, text_only):
    return {layout.task: layout for layout in (text_to_image, image_to_text, text_only)}


@pytest.fixture
def batches(digits, train_records, tokenizer, layouts):
    """Makes iterators of batches, and closes their threads at the end."""
    with contextlib.ExitStack() as stack:

        def start(config=digits, records=train_records, rows=ROWS, **share):
            endless = training_batches(
                config, layouts, rows, records, tokenizer, **share
            )
            return stack.enter_context(contextlib.closing(iter(endless)))

        yield start


def _assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def _differ(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any((left != right).any() for left, right in pairs)


def _prompts(batch, layout):
    _, start, num_slots = layout.slot_range("prompt")
    text = batch["text_to_image"].streams["text"]
    return text.token_id_BT[:, start : start + num_slots]


def test_batches_have_the_shapes_of_their_layouts(batches, layouts):
    batch = next(batches())
    assert list(batch) == list(ROWS)
    for task, group in batch.items():
        assert group.layout == layouts[task]
        assert group.num_rows == ROWS[task]
        for name, stream in group.streams.items():
            shape = (ROWS[task], layouts[task].num_tokens(name))
            for leaf in jax.tree.leaves(stream):
                assert (leaf.shape, leaf.dtype) == (shape, np.int32)
            held = stream.position_BT >= 0
            np.testing.assert_array_equal(stream.token_id_BT == 0, ~held)
            np.testing.assert_array_equal(stream.modality_BT == -1, ~held)


def test_a_fresh_iterator_repeats_and_another_seed_does_not(batches, digits):
    first, again = batches(), batches()
    for _ in range(3):
        _assert_equal(next(first), next(again))
    other = batches(dataclasses.replace(digits, seed=1))
    assert _differ(next(batches()), next(other))


def test_resuming_is_exact_and_the_state_is_small(batches):
    original = batches()
    for _ in range(7):
        next(original)
    state = json.loads(json.dumps(original.get_state()))
    assert len(json.dumps(state)) < 100
    resumed = batches()
    next(resumed)  # prefetching must not get in the way
    resumed.set_state(state)
    for _ in range(6):
        _assert_equal(next(original), next(resumed))


def test_orbax_saves_and_restores_the_iterator(batches, tmp_path):
    original, resumed = batches(), batches()
    for _ in range(3):
        next(original)
    orbax.save_checkpointables(tmp_path / "step_3", {"data": original})
    orbax.load_checkpointables(tmp_path / "step_3", {"data": resumed})
    _assert_equal(next(original), next(resumed))


def test_every_epoch_has_every_record_in_another_order(
    digits, train_records, batches, layouts
):
    ten = train_records[:10]
    config = dataclasses.replace(digits, prompt_dropout=0.0)
    iterator = batches(config, ten, {task: 5 for task in ROWS})
    images = [
        next(iterator)["image_to_text"].streams["image"].token_id_BT for _ in range(8)
    ]
    epochs = [np.concatenate(pair) for pair in itertools.batched(images, 2)]
    for epoch in epochs[1:]:
        assert (epoch != epochs[0]).any()
        np.testing.assert_array_equal(np.sort(epoch, 0), np.sort(epochs[0], 0))


def test_tasks_draw_records_in_orders_of_their_own(batches):
    batch = next(batches())
    images = [batch[t].streams["image"].token_id_BT[:8] for t in list(ROWS)[:2]]
    assert (images[0] != images[1]).any()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_prompts_are_dropped_at_their_rate(batches, digits, text_to_image, share):
    iterator = batches(dataclasses.replace(digits, prompt_dropout=share))
    steps = 40 if 0 < share < 1 else 2
    dropped = [
        (_prompts(next(iterator), text_to_image) == 0).all(1) for _ in range(steps)
    ]
    assert abs(np.mean(dropped) - share) <= (0.08 if 0 < share < 1 else 0.0)


def test_dropping_prompts_changes_nothing_else(batches, digits):
    with_prompts = next(batches(dataclasses.replace(digits, prompt_dropout=0.0)))
    without = next(batches(dataclasses.replace(digits, prompt_dropout=1.0)))
    for task in ("image_to_text", "text_only"):
        _assert_equal(with_prompts[task], without[task])


def test_processes_share_the_rows_of_one_process(batches):
    whole, halves = (
        batches(),
        [batches(process_index=i, process_count=2) for i in (0, 1)],
    )
    for _ in range(3):
        shares = [next(half) for half in halves]
        # Row i of a step goes to process i % process_count.
        together = jax.tree.map(
            lambda even, odd: np.stack([even, odd], 1).reshape(
                2 * len(even), *even.shape[1:]
            ),
            *shares,
        )
        _assert_equal(together, next(whole))


def test_rows_that_do_not_divide_are_refused(batches):
    with pytest.raises(DataError, match=r"'text_only' has 4 rows.*multiple of 3"):
        batches(rows={**ROWS, "text_to_image": 12, "image_to_text": 9}, process_count=3)
    with pytest.raises(DataError, match="same tasks"):
        batches(rows={"text_to_image": 4})
    with pytest.raises(DataError, match="no records"):
        batches(records=[])


def test_a_bad_record_is_named_in_training(batches, train_records):
    class WithLongCaptions(Records):
        def __len__(self):
            return 4

        def read(self, place):
            record = train_records[place]
            long = Text(("seven " * 40,))
            return dataclasses.replace(record, parts=(*record.images, long))

    with pytest.raises(DataError, match=r"the text of scan-\d+ is 4\d tokens"):
        next(batches(records=WithLongCaptions()))
