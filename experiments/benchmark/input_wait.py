"""Does training wait for its data? On the demo, and on rows shaped as Show-o's.

Both are real: the records, batches and step of `experiments.train`. The synthetic one
reads 512 x 512 colour PNGs (it decodes, shrinks and codes each anew for every row) and
captions of 20 to 60 words that it has not seen before, and makes the 1,024 codes and
126 caption slots of Show-o's rows at 512 px of them, 5 + 5 + 2 a step.

The share that counts is that of time in which a device has nothing to do because no
batch has come (`training.input_wait`). Beside it stands how many rows per second the
pipeline makes while nothing else runs: a step that takes longer than
`pipeline_step_seconds` never waits, on any device that has this host. And steps on one
batch that is there all the time say what the pipeline costs that is no waiting: on a
CPU it computes on the cores that the step computes on.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmark.suite import Setting, SuiteResult
from experiments.published import published, with_grey_images
from experiments.toy import demo
from pallas_kernels.benchmark.timing import Budget, Run, seconds_in_turns
from unimod_jax.data import (
    DataConfig,
    Record,
    Records,
    TextTokenizer,
    open_split,
    prepare,
    read_record,
    training_batches,
)
from unimod_jax.data.image_codec import decode_image
from unimod_jax.data.mixture import PREFETCHED_STEPS
from unimod_jax.layout import UnifiedBatch
from unimod_jax.parallel import MeshConfig
from unimod_jax.training import Assembly, Experiment, Trainer, make_trainer
from unimod_jax.training.input_wait import EndWatcher, InputWait
from unimod_jax.training.step import Metrics

_LIBRARIES = ("grain", "tokenizers", "tensorflow_datasets", "PIL")
_LEAST_BATCHES, _LEAST_TURNS = 5, 2
_MOST_SAMPLES = 10_000
_STEPS_PER_TURN = 4
_SYNTHETIC_ROWS = 12
_CODES_PER_SIDE = 32
_SMALL_MODEL = {"num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "width": 16}


class Feed(NamedTuple):
    """An experiment with the records that it trains on."""

    experiment: Experiment
    records: Sequence[Record]
    captions: Sequence[str]


class FedSteps(NamedTuple):
    """Steps that a pipeline fed, and steps on one batch that was there all the time.

    Attributes:
      steps: how many were fed.
      step_seconds: mean of those.
      wait_seconds: what of that the device waited for data.
      fixed_batch_step_seconds: mean of the others, which wait for nothing and share the
        host with nothing.
    """

    steps: int
    step_seconds: float
    wait_seconds: float
    fixed_batch_step_seconds: float


def input_suite(setting: Setting) -> SuiteResult:
    """Share of step time spent waiting for data, on two pipelines, and the larger one.

    Without the libraries of the data room it says so, and returns nothing.
    """
    absent = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if absent:
        setting.say(
            f"input: left out, because this Python has no {', '.join(absent)}; "
            "install requirements.txt."
        )
        return SuiteResult([], {})
    records, figures = [], {}
    with tempfile.TemporaryDirectory() as directory:
        feeds = {
            "demo": functools.partial(demo_feed, setting, directory),
            "synthetic_512": functools.partial(synthetic_feed, setting),
        }
        for name, make_feed in feeds.items():
            record = _measure(make_feed(), setting.seconds / len(feeds))
            setting.say(
                f"input, {name}: waits {record['input_wait_share']:.2%} of a step of "
                f"{record['step_seconds']:.2f} s"
            )
            records.append({"pipeline": name, **record})
            figures[f"input.{name}.wait_share"] = record["input_wait_share"]
    return SuiteResult(records, {"input.wait_share": max(figures.values()), **figures})


def demo_feed(setting: Setting, directory: str) -> Feed:
    """The demo on the handwritten digits, which are built in a directory."""
    experiment = demo.experiment()
    data = dataclasses.replace(experiment.data, directory=directory)
    if setting.quick:
        data = dataclasses.replace(data, batch_size=9)
        model = dataclasses.replace(experiment.model, num_layers=2, **_SMALL_MODEL)
        experiment = dataclasses.replace(experiment, model=model)
    prepare(data)
    records = open_split(data, data.train_split)
    captions = [text for record in records for text in record.texts]
    return Feed(dataclasses.replace(experiment, data=data), records, captions)


def synthetic_feed(setting: Setting) -> Feed:
    """Show-o's rows at 512 px of made-up pictures.

    On a CPU a model of some tenths of a second per step stands for Show-o's own, which
    is trained on everything else. The words are few: there are no more to learn.
    """
    full = published("show_o_512", "dense")
    data = dataclasses.replace(
        with_grey_images(full.data, _CODES_PER_SIDE),
        batch_size=_SYNTHETIC_ROWS,
        text_vocabulary_size=2048,
    )
    model = full.model
    if setting.platform == "cpu":
        model = dataclasses.replace(
            model,
            vocabulary_size=0,
            compute_dtype="float32",
            **(_SMALL_MODEL | {"num_layers": 2, "feed_forward_hidden": 64}),
        )
    picture_size, num_captions = 512, 2048
    if setting.quick:
        data = with_grey_images(data, 4)
        picture_size, num_captions = 16, 64
    captions = made_up_captions(num_captions)
    records = EncodedPictures(data, made_up_pictures(picture_size), captions)
    experiment = dataclasses.replace(full, model=model, data=data, mesh=MeshConfig())
    return Feed(experiment, records, captions)


class EncodedPictures(Records):
    """Captions, each with a picture that is kept as PNG and decoded whenever read.

    It does what `SplitRecords` does for a data set that is too large to keep decoded.
    """

    def __init__(
        self, config: DataConfig, pictures: Sequence[bytes], captions: Sequence[str]
    ) -> None:
        """Decodes nothing yet; pictures take turns where there are fewer of them."""
        self._config = config
        self._pictures = pictures
        self._captions = captions

    def __len__(self) -> int:
        """As many as captions."""
        return len(self._captions)

    def read(self, place: int) -> Record:
        """Decodes, shrinks and checks a record."""
        where = f"picture {place}"
        encoded = self._pictures[place % len(self._pictures)]
        mode = "L" if self._config.image_channels == 1 else "RGB"
        raw = {
            "image": decode_image(encoded, where, mode),
            "text": self._captions[place],
        }
        return read_record(raw, self._config, where)


def made_up_pictures(size: int, count: int = 16) -> list[bytes]:
    """PNGs, RGB, size x size: soft shapes with a little noise, as photographs have."""
    from PIL import Image

    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        soft = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
        noise = rng.integers(-6, 7, soft.shape)
        pixels = np.clip(soft.astype(np.int64) + noise, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        encoded.append(file.getvalue())
    return encoded


def made_up_captions(count: int) -> list[str]:
    """Captions of 20 to 60 words out of some hundreds, which become single tokens."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(pair) for pair in itertools.product(syllables[::4], syllables)]
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, rng.integers(20, 61))) for _ in range(count)]


def _measure(feed: Feed, seconds: float) -> dict[str, Any]:
    """The record of a pipeline: alone, and feeding its training step."""
    assembly = Assembly(feed.experiment)
    tokenizer = TextTokenizer.train(feed.captions, assembly.vocabulary)
    batches = training_batches(
        feed.experiment.data, assembly.layouts, assembly.rows, feed.records, tokenizer
    )
    with contextlib.closing(iter(batches)) as alone:
        example = next(alone)
        alone_seconds = seconds_per_batch(alone, Budget(seconds / 4))
    with contextlib.closing(iter(batches)) as feeding:
        trainer = make_trainer(assembly, feeding, example)
        fed = take_turns_with_fixed_batch(trainer, example, seconds * 3 / 4)
    num_rows = sum(assembly.rows.values())
    return {
        "rows_per_step": num_rows,
        **fed._asdict(),
        "input_wait_share": fed.wait_seconds / fed.step_seconds,
        "pipeline_step_seconds": alone_seconds,
        "pipeline_rows_per_second": num_rows / alone_seconds,
    }


def seconds_per_batch(batches: Iterator[UnifiedBatch], budget: Budget) -> float:
    """How long the pipeline takes for a batch when nobody else needs the machine."""
    drain(batches)
    taken = seconds_in_turns(
        {"alone": Run(lambda: next(batches), lambda _: None)},
        repeats=_MOST_SAMPLES,
        budget=budget,
        fewest=_LEAST_BATCHES,
    )
    return statistics.fmean(taken["alone"])


def take_turns_with_fixed_batch(
    trainer: Trainer, batch: UnifiedBatch, seconds: float
) -> FedSteps:
    """Takes training steps as the loop does, and a few on one batch, in turns.

    What was prepared during a turn of the others, or while the step was compiled, is
    thrown away, and the first step of a turn does not count: so the pipeline has as
    much time for a batch as a step takes, and no more.

    Args:
      trainer: its state moves on.
      batch: the one.
      seconds: about how long to go on; there are always some turns.
    """
    waited: list[float] = []
    with contextlib.closing(EndWatcher()) as watcher:
        wait = InputWait(watcher)

        def begin(batches: Iterator[UnifiedBatch]) -> None:
            jax.block_until_ready(_start_steps(trainer, batches, wait, 1))
            wait.take_seconds()

        def begin_fed() -> None:
            drain(trainer.batches)
            begin(trainer.batches)

        def end_fed(metrics: Metrics) -> None:
            jax.block_until_ready(metrics)
            waited.append(wait.take_seconds())

        def turn(batches: Iterator[UnifiedBatch]) -> Callable[[], Metrics]:
            return lambda: _start_steps(trainer, batches, wait, _STEPS_PER_TURN)

        same = itertools.repeat(batch)
        taken = seconds_in_turns(
            {
                "fixed": Run(turn(same), jax.block_until_ready, lambda: begin(same)),
                "fed": Run(turn(trainer.batches), end_fed, begin_fed),
            },
            repeats=_MOST_SAMPLES,
            budget=Budget(seconds),
            fewest=_LEAST_TURNS,
        )
    fed, fixed = taken["fed"], taken["fixed"]
    return FedSteps(
        steps=len(fed) * _STEPS_PER_TURN,
        step_seconds=statistics.fmean(fed) / _STEPS_PER_TURN,
        # Turns that warm up come first, and do not count.
        wait_seconds=statistics.fmean(waited[-len(fed) :]) / _STEPS_PER_TURN,
        fixed_batch_step_seconds=statistics.fmean(fixed) / _STEPS_PER_TURN,
    )


def _start_steps(
    trainer: Trainer, batches: Iterator[UnifiedBatch], wait: InputWait, count: int
) -> Metrics:
    """Takes steps as the loop does; returns what is ready when the last is done."""
    metrics: Metrics = {}
    for _ in range(count):
        batch = wait.next_batch(batches)
        trainer.state, metrics = trainer.step(trainer.state, batch)
        wait.step_started(metrics)
    return metrics


def drain(batches: Iterator[UnifiedBatch]) -> None:
    """Takes the batches that were prefetched, and lets them go."""
    for _ in range(PREFETCHED_STEPS):
        next(batches)
