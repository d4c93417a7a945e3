"""Packed batches: whole, of one layout each, resumed exactly, the same for all."""

import collections
import contextlib
import json

import grain
import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as orbax
import pytest

from unimod_jax.data import DataError
from unimod_jax.data.packed_batches import PackedBatches
from unimod_jax.layout import (
    IMAGE,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    Stream,
)

STREAMS = (Stream.of(TEXT), Stream.of(IMAGE))
LAYOUTS = tuple(
    InterleavedLayout("interleaved", STREAMS, ((TEXT, 12 - images), (IMAGE, images)))
    for images in (0, 4, 8)
)


def documents(count=60):
    """Documents of different ids: some text alone, some with an image."""
    rng = np.random.default_rng(0)
    made, next_id = [], 100
    for index in range(count):
        spans = []
        for modality, most in ((TEXT, 5), (IMAGE, 4)):
            length = int(rng.integers(1, most + 1))
            if modality == IMAGE and rng.random() < 0.4:
                continue
            spans.append(Span(modality, range(next_id, next_id + length)))
            next_id += length
        made.append(InterleavedDocument(tuple(spans), f"document {index}"))
    return made


def start(source=None, batch_size=4, **options):
    options = {"open_rows": 3} | options
    source = documents() if source is None else source
    return iter(PackedBatches(source, LAYOUTS, batch_size, **options))


def ids_of(groups):
    return [
        int(token)
        for group in groups
        for stream in group.streams.values()
        for token in stream.token_id_BT[stream.position_BT >= 0]
    ]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_every_token_is_sent_once_in_batches_of_one_layout():
    groups = list(start())
    assert {group.layout for group in groups} == set(LAYOUTS)
    assert {group.num_rows for group in groups} == {4}
    made = (token for d in documents() for span in d.spans for token in span.tokens)
    assert sorted(ids_of(groups)) == sorted(made)


def test_rows_left_at_the_end_are_sent_with_empty_rows_beside_them():
    (group,) = start(documents(2))
    held_B = (group.streams[TEXT].position_BT >= 0).any(1)
    assert held_B.any() and not held_B.all()


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("split_text", [False, True])
def test_resuming_is_exact(steps, split_text):
    source = documents(80)
    if split_text:
        source.insert(3, InterleavedDocument((Span(TEXT, range(5000, 5040)),)))
    original = start(source, split_text=split_text)
    for _ in range(steps):
        next(original)
    state = json.loads(json.dumps(original.get_state()))
    resumed = start(source, split_text=split_text)
    next(resumed)
    resumed.set_state(state)
    rest, again = list(original), list(resumed)
    assert len(rest) == len(again) >= 5
    for one, other in zip(rest, again, strict=True):
        assert_equal(one, other)


def test_orbax_saves_and_restores_the_iterator(tmp_path):
    original, resumed = start(), start()
    for _ in range(3):
        next(original)
    orbax.save_checkpointables(tmp_path / "step_3", {"data": original})
    orbax.load_checkpointables(tmp_path / "step_3", {"data": resumed})
    assert_equal(next(original), next(resumed))


def test_a_shuffled_and_repeated_source_is_endless():
    source = grain.MapDataset.source(documents(10)).seed(0).shuffle().repeat()
    with contextlib.closing(start(source)) as batches:
        sent = collections.Counter(ids_of(next(batches) for _ in range(30)))
    assert min(sent.values()) > 1


def test_processes_share_the_rows_of_a_batch():
    whole = list(start())
    halves = [list(start(process_index=i, process_count=2)) for i in (0, 1)]
    for group, even, odd in zip(whole, *halves, strict=True):
        assert even.layout == odd.layout == group.layout
        together = jax.tree.map(
            lambda a, b: np.stack([a, b], 1).reshape(4, *a.shape[1:]), even, odd
        )
        assert_equal(together, group)


def test_a_document_longer_than_a_row_is_named_when_it_is_reached():
    long = InterleavedDocument((Span(IMAGE, range(9)),), "scan-0003")
    with pytest.raises(DataError, match="scan-0003 has 9 image tokens"):
        list(start([*documents(3), long]))


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"open_rows": 0}, {"process_count": 3}]
)
def test_impossible_batches_are_refused(options):
    with pytest.raises(DataError, match="share a batch"):
        start(**options)
