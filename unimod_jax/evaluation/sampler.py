"""What a trained run writes in the rows of its tasks: texts, images and speech.

Rows go through in batches of one fixed size, so each piece that is written is compiled
once; the last batch is filled up with copies of its last row, which are thrown away. A
row with several pieces to write has them written in turn, each after what was written
before it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from unimod_jax.data import (
    Held,
    Image,
    RowTemplates,
    Value,
    Written,
    document,
    encode_batch,
    patches_to_latents,
    patches_to_pixels,
)
from unimod_jax.evaluation.trained_run import TrainedRun
from unimod_jax.generation import GuidedRows, decode_segment, draw_images
from unimod_jax.layout import IMAGE, SPEECH, TEXT, SegmentSpec, TaskLayout

BATCH_SIZE = 40


class Sampler:
    """Writes with a trained run; the same seed gives the same results."""

    def __init__(self, trained: TrainedRun, batch_size: int = BATCH_SIZE) -> None:
        """Compiles nothing yet.

        Args:
          trained: the run.
          batch_size: rows that go through the model at once.
        """
        self._trained = trained
        self._batch_size = batch_size
        self._write_batch = functools.cache(self._compiled)

    def write(
        self, task: str, given: Sequence[Mapping[str, Value]], seed: int = 0
    ) -> list[dict[str, Written]]:
        """What each row of a task is written, with the run's own `sampling` settings.

        Args:
          task: its name.
          given: piece -> what it shows, for each row: texts, images (`data.Image`) or
            units. Pieces that are to be written may be given too, and then stand as
            they are; given ones that are left out have their default, or stay empty.
          seed: of all randomness; batch b uses the b-th key folded from it.

        Returns:
          For each row, piece -> what was written there.

        Raises:
          DataError: if something does not fit its slots.
          RunError: if the run was not trained for the task.
        """
        layout = self._trained.layout(task)
        templates, key = RowTemplates(layout), jax.random.key(seed)
        results: list[dict[str, Written]] = []
        for index, (batch, num_rows) in enumerate(in_batches(given, self._batch_size)):
            batch_key = jax.random.fold_in(key, index)
            written = self._write_rows(layout, templates, batch, batch_key)
            results += written[:num_rows]
        return results

    def draw(
        self, prompts: Sequence[str], seed: int, task: str | None = None
    ) -> np.ndarray:
        """One image per prompt; uint8 [n, image_size, image_size, image_channels].

        Args:
          prompts: texts; an empty one draws without a prompt.
          seed: as of `write`.
          task: which task draws; the only one that does unless given.
        """
        trained = self._trained
        layout = trained.layout_writing(IMAGE, {TEXT}, task)
        prompt = next(s.name for s in layout.segments if s.part and not s.written)
        image = next(s.name for s in layout.segments if s.written)
        given = [{prompt: text} for text in prompts]
        rows = self.write(layout.task, given, seed)
        data = trained.experiment.data
        shape = (0, data.image_size, data.image_size, data.image_channels)
        return np.array([row[image] for row in rows], np.uint8).reshape(-1, *shape[1:])

    def caption(
        self,
        images: Sequence[np.ndarray],
        questions: Sequence[str] = (),
        seed: int = 0,
        task: str | None = None,
    ) -> list[str]:
        """A text about each image, cut at its end token.

        Args:
          images: uint8 [image_size, image_size, image_channels] each.
          questions: one per image, for rows that ask; none for the rows' own.
          seed: as of `write`; of no effect on greedy texts.
          task: which task describes; the only one that does unless given.
        """
        layout = self._trained.layout_writing(TEXT, {IMAGE}, task)
        shown = next(s.name for s in layout.segments if s.modality == IMAGE)
        text = next(s.name for s in layout.segments if s.written)
        given: list[dict[str, Value]] = [{shown: Image(image)} for image in images]
        if questions:
            asked = [s for s in layout.segments if s.part and s.modality == TEXT]
            if asked and not asked[0].written:
                for row, question in zip(given, questions, strict=True):
                    row[asked[0].name] = question
        return [str(row[text]) for row in self.write(layout.task, given, seed)]

    def _write_rows(
        self,
        layout: TaskLayout,
        templates: RowTemplates,
        batch: Sequence[Mapping[str, Value]],
        key: jax.Array,
    ) -> list[dict[str, Written]]:
        """One batch, piece by piece."""
        rows: list[dict[str, Value]] = [dict(row) for row in self._coded(batch)]
        written: list[dict[str, Written]] = [{} for _ in rows]
        segments = [s for s in layout.segments if s.written]
        for number, segment in enumerate(segments):
            if all(segment.name in row for row in batch):
                continue
            piece_key = jax.random.fold_in(key, number) if number else key
            guided = self._guided(layout, templates, rows, segment)
            write = self._write_batch(layout.task, segment.name)
            made = np.asarray(write(self._trained.variables, guided, piece_key))
            for row, result, value in zip(
                rows, written, self._values(segment, made), strict=True
            ):
                result[segment.name] = value
                row[segment.name] = (
                    Image(value) if isinstance(value, np.ndarray) else value
                )
            if number + 1 < len(segments):
                rows = [dict(row) for row in self._coded(rows)]
        return written

    def _guided(
        self,
        layout: TaskLayout,
        templates: RowTemplates,
        rows: Sequence[Mapping[str, Value]],
        segment: SegmentSpec,
    ) -> GuidedRows:
        """The rows; for images, beside the same without what is droppable."""
        sampling = self._trained.experiment.sampling
        droppable = [s.name for s in layout.segments if s.droppable]
        stacked = templates.stack([self._document(row, layout) for row in rows])
        if segment.modality != IMAGE or not droppable or sampling.guidance == 1.0:
            return GuidedRows(stacked)
        away: Value = sampling.negative_prompt or Held.NOTHING
        without = [{**row, **dict.fromkeys(droppable, away)} for row in rows]
        return GuidedRows.pair(
            stacked,
            templates.stack([self._document(row, layout) for row in without]),
            sampling.guidance,
        )

    def _document(self, row: Mapping[str, Value], layout: TaskLayout):
        data, tokenizer = self._trained.experiment.data, self._trained.tokenizer
        texts = [value for value in row.values() if isinstance(value, str) and value]
        where = f"the row of {texts[0]!r}" if texts else "this row"
        return document(row, layout, data, tokenizer, where=where)

    def _coded(
        self, batch: Sequence[Mapping[str, Value]]
    ) -> Iterator[Mapping[str, Value]]:
        """The rows, their images with the codes that the run's codec makes of them."""
        if not self._trained.shows_codes:
            yield from batch
            return
        for row in batch:
            coded = dict(row)
            for name, value in row.items():
                if isinstance(value, Image) and value.codes is None:
                    codes = encode_batch([value.pixels], self._trained.codec, 1)[0]
                    coded[name] = dataclasses.replace(value, codes=codes)
            yield coded

    def _compiled(self, task: str, name: str) -> Callable:
        """The jitted function that writes one piece of a batch of rows."""
        trained, segment = self._trained, self._trained.layout(task).segment(name)
        sampling, objective = trained.experiment.sampling, trained.experiment.objective

        def draw(variables: dict, guided: GuidedRows, key: jax.Array) -> jax.Array:
            codes = trained.assembly.image_codes
            model = trained.bound(variables)
            return draw_images(objective, model, guided, name, sampling, codes, key)

        def decode(variables: dict, guided: GuidedRows, key: jax.Array) -> jax.Array:
            how = sampling.words if segment.modality == TEXT else sampling.units
            return decode_segment(
                trained.bound(variables), guided, name, allowed, how, key
            )

        if segment.modality == IMAGE:
            return jax.jit(draw)
        allowed = _allowed(trained, segment)
        return jax.jit(decode)

    def _values(self, segment: SegmentSpec, made: np.ndarray) -> list[Written]:
        """What a batch of ids or patches stands for."""
        trained = self._trained
        if segment.modality == IMAGE:
            return list(_pictures(trained, made))
        vocabulary = trained.assembly.vocabulary
        special = vocabulary.special
        is_text = segment.modality == TEXT
        end = special.end if is_text else special.end_speech
        values: list[Written] = []
        for ids in made:
            ended = np.flatnonzero(ids == end)
            ids = ids[: ended[0]] if len(ended) else ids
            if is_text:
                values.append(trained.tokenizer.decode(ids))
            else:
                values.append(tuple((ids - vocabulary.speech_start).tolist()))
        return values


def in_batches[Item](
    items: Sequence[Item], batch_size: int
) -> Iterator[tuple[list[Item], int]]:
    """Lists of exactly batch_size items, and how many of each are not filling."""
    for start in range(0, len(items), batch_size):
        batch = list(items[start : start + batch_size])
        yield batch + batch[-1:] * (batch_size - len(batch)), len(batch)


def _allowed(trained: TrainedRun, segment: SegmentSpec) -> np.ndarray:
    """Ids that may be written in a segment, boolean [V]."""
    vocabulary = trained.assembly.vocabulary
    # The model may have more rows than the vocabulary has ids.
    allowed = np.zeros(trained.assembly.vocabulary_size, bool)
    if segment.modality == SPEECH:
        start = vocabulary.speech_start
        allowed[start : start + vocabulary.speech_units] = True
        allowed[vocabulary.special.end_speech] = True
    else:
        allowed[: len(trained.tokenizer.is_word)] = trained.tokenizer.is_word
        allowed[vocabulary.special.end] = True
    return allowed


def _pictures(trained: TrainedRun, drawn: np.ndarray) -> np.ndarray:
    """uint8 images [B, Y, X, channels] of codes [B, N] or patches [B, N, P]."""
    if not trained.experiment.objective.continuous_images:
        return trained.codec.decode(drawn)
    data = trained.experiment.data
    if data.latent_channels:
        latents = [patches_to_latents(patch_NP, data) for patch_NP in drawn]
        return trained.codec.decode(np.stack(latents))
    return np.stack([patches_to_pixels(patch_NP, data) for patch_NP in drawn])
