"""What the input suite feeds, how it takes turns, and what it says without Grain."""

import importlib.util
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.benchmark import input_wait
from experiments.benchmark.input_wait import (
    EncodedPictures,
    input_suite,
    made_up_captions,
    made_up_pictures,
    synthetic_feed,
    take_turns_with_fixed_batch,
)
from experiments.benchmark.suite import Setting
from unimod_jax.data import DataConfig, TextTokenizer
from unimod_jax.data.example_rows import first_rows
from unimod_jax.data.image_codec import decode_image
from unimod_jax.data.mixture import PREFETCHED_STEPS
from unimod_jax.data.resizing import fit_to_square
from unimod_jax.presets import model_spec, preset
from unimod_jax.training import Assembly

PICTURE_SIZE = 16


def test_the_synthetic_rows_have_the_counts_of_show_o():
    published = preset("show_o_512")
    assembly = Assembly(synthetic_feed(Setting("cpu", 1.0)).experiment)
    assert assembly.rows == {"text_to_image": 5, "image_to_text": 5, "text_only": 2}
    wanted = published.layouts(model_spec(published, "dense"))
    for task, layout in assembly.layouts.items():
        slots = {s.name: s.num_slots for s in layout.segments}
        assert slots == {s.name: s.num_slots for s in wanted[task].segments}


def test_captions_fit_their_slots_and_fill_a_good_part_of_them():
    captions = made_up_captions(500)
    assert len(set(captions)) == 500
    assembly = Assembly(synthetic_feed(Setting("cpu", 1.0)).experiment)
    tokenizer = TextTokenizer.train(captions, assembly.vocabulary)
    lengths = [len(tokenizer.encode(caption)) for caption in captions]
    assert min(lengths) >= 20
    assert max(lengths) <= 126


def test_quick_rows_can_be_made():
    feed = synthetic_feed(Setting("cpu", 1.0, quick=True))
    assembly = Assembly(feed.experiment)
    tokenizer = TextTokenizer.train(feed.captions, assembly.vocabulary)
    batch = first_rows(
        feed.experiment.data,
        assembly.layouts,
        assembly.rows,
        feed.records,
        tokenizer,
    )
    assert {task: group.num_rows for task, group in batch.items()} == assembly.rows


def test_a_picture_is_decoded_made_grey_and_shrunk():
    pictures = made_up_pictures(PICTURE_SIZE, count=2)
    config = DataConfig(
        image_size=4, resize=True, parts=("image", "text"), attributes=()
    )
    records = EncodedPictures(config, pictures, ["one", "two", "three"])
    assert len(records) == 3
    assert records[2].texts == ("three",)
    grey = decode_image(pictures[0], "picture 0", "L")
    assert grey.shape == (PICTURE_SIZE, PICTURE_SIZE, 1)
    np.testing.assert_array_equal(records[2].images[0].pixels, fit_to_square(grey, 4))
    assert [record.texts for record in records[1:]] == [("two",), ("three",)]


def test_turns_begin_without_anything_prepared():
    """Each throws the prefetched away, and its first step does not count."""
    fixed, trained = -1, []
    double = jax.jit(lambda value: 2.0 * value)

    def step(state, batch):
        trained.append(batch)
        return state, {"loss": double(np.float32(batch))}

    trainer = SimpleNamespace(state=None, step=step, batches=itertools.count())
    found = take_turns_with_fixed_batch(trainer, fixed, seconds=0.0)
    batches = PREFETCHED_STEPS + 5
    turns = [
        [*range(start, start + 5)]
        for start in range(PREFETCHED_STEPS, 4 * batches, batches)
    ]
    others = [fixed] * 5
    warm_up = [*others, *others, *turns[0], *turns[1]]
    assert trained == [*warm_up, *others, *turns[2], *others, *turns[3]]
    assert found.steps == 8
    assert 0 <= found.wait_seconds <= found.step_seconds


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the measurement: the first pipeline waits 1%, the next 3%."""
    shares = iter([0.01, 0.03])

    def measure(_feed, _seconds):
        return {"input_wait_share": next(shares), "step_seconds": 2.0}

    monkeypatch.setattr(input_wait, "_measure", measure)
    monkeypatch.setattr(input_wait, "demo_feed", lambda _setting, _directory: None)
    return []


def test_the_figure_is_that_of_the_pipeline_that_waits_longer(measured: list[str]):
    records, figures = input_suite(Setting("cpu", 1.0, quick=True, say=measured.append))
    assert figures == {
        "input.wait_share": 0.03,
        "input.demo.wait_share": 0.01,
        "input.synthetic_512.wait_share": 0.03,
    }
    assert [record["pipeline"] for record in records] == ["demo", "synthetic_512"]
    assert measured[1] == "input, synthetic_512: waits 3.00% of a step of 2.00 s"


def test_without_the_data_libraries_the_suite_says_so(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "grain" else find(name),
    )
    said: list[str] = []
    assert input_suite(Setting("gpu", 1.0, say=said.append)) == ([], {})
    assert len(said) == 1
    assert "has no grain" in said[0]
