"""Images for prompts and captions for images, from a trained run.

Rows go through in batches of one fixed size, so each direction is compiled once; the
last batch is filled up with copies of its last row, which are thrown away.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from unimod_jax.data import (
    RowTemplates,
    caption_ids,
    document,
    encode_batch,
    patches_to_latents,
    patches_to_pixels,
    question_ids,
)
from unimod_jax.evaluation.trained_run import TrainedRun
from unimod_jax.generation import GuidedRows, caption_images, draw_images
from unimod_jax.layout import Document, TokenGroup
from unimod_jax.objectives import IMAGE_TO_TEXT, TEXT_TO_IMAGE

BATCH_SIZE = 40


class Sampler:
    """Draws and captions with a trained run; the same seed gives the same results."""

    def __init__(self, trained: TrainedRun, batch_size: int = BATCH_SIZE) -> None:
        """Compiles nothing yet.

        Args:
          trained: the run.
          batch_size: rows that go through the model at once.
        """
        self._trained = trained
        self._batch_size = batch_size
        self._draw_batch = jax.jit(_drawing(trained))
        self._caption_batch = jax.jit(_captioning(trained))

    def draw(self, prompts: Sequence[str], seed: int) -> np.ndarray:
        """One image per prompt, with the run's own `sampling` settings.

        Args:
          prompts: texts; an empty one draws without a prompt.
          seed: of all randomness; batch b uses the b-th key folded from it.

        Returns:
          uint8 [len(prompts), image_size, image_size, image_channels].

        Raises:
          DataError: if a prompt has more tokens than the layout has slots.
          RunError: if the run was not trained to draw.
        """
        experiment = self._trained.experiment
        layout = self._trained.layout(TEXT_TO_IMAGE)
        templates = RowTemplates(layout)
        documents = [self._prompted(prompt) for prompt in prompts]
        sampling, key = experiment.sampling, jax.random.key(seed)
        away = self._prompted(sampling.negative_prompt)
        without = templates.stack([away] * self._batch_size)
        images = [_no_images(self._trained)]
        for index, (rows, num_rows) in enumerate(
            in_batches(documents, self._batch_size)
        ):
            guided = GuidedRows.pair(templates.stack(rows), without, sampling.guidance)
            batch_key = jax.random.fold_in(key, index)
            drawn = np.asarray(
                self._draw_batch(self._trained.variables, guided, batch_key)
            )
            images.append(_pictures(self._trained, drawn)[:num_rows])
        return np.concatenate(images)

    def caption(
        self,
        images: Sequence[np.ndarray],
        questions: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """A caption of each image, with the run's own `sampling`, cut at its end token.

        Args:
          images: uint8 [image_size, image_size, image_channels] each.
          questions: one per image, for a template that asks; none for the run's own.
          seed: of all randomness, as in `draw`; of no effect on greedy captions.

        Raises:
          DataError: if an image has another size.
          RunError: if the run was not trained to caption.
        """
        trained = self._trained
        layout = trained.layout(IMAGE_TO_TEXT)
        templates = RowTemplates(layout)
        asked = questions or [trained.experiment.data.question] * len(images)
        captions, key = [], jax.random.key(seed)
        pairs = list(zip(images, asked, strict=True))
        for index, (batch, num_rows) in enumerate(in_batches(pairs, self._batch_size)):
            shown = templates.stack(self._shown(batch))
            batch_key = jax.random.fold_in(key, index)
            ids = np.asarray(self._caption_batch(trained.variables, shown, batch_key))
            captions += [self._text_of(row) for row in ids[:num_rows]]
        return captions

    def _shown(self, batch: Sequence[tuple[np.ndarray, str]]) -> list[Document]:
        """Rows that show images, and perhaps ask about them, with a caption open."""
        trained = self._trained
        layout = trained.layout(IMAGE_TO_TEXT)
        codes: list[np.ndarray | None] = [None] * len(batch)
        if trained.shows_codes:
            images = [image for image, _ in batch]
            codes = list(encode_batch(images, trained.codec, len(batch)))
        return [
            document(
                layout,
                trained.experiment.data,
                trained.assembly.vocabulary,
                caption_ids=None,
                question_ids=question_ids(question, layout, trained.tokenizer),
                image=image,
                codes=code_N,
            )
            for (image, question), code_N in zip(batch, codes, strict=True)
        ]

    def _prompted(self, prompt: str) -> Document:
        trained = self._trained
        layout = trained.layout(TEXT_TO_IMAGE)
        return document(
            layout,
            trained.experiment.data,
            trained.assembly.vocabulary,
            caption_ids=caption_ids(prompt, layout, trained.tokenizer),
            image=None,
            where=f"the prompt {prompt!r}",
        )

    def _text_of(self, ids: np.ndarray) -> str:
        ended = np.flatnonzero(ids == self._trained.assembly.vocabulary.special.end)
        return self._trained.tokenizer.decode(ids[: ended[0]] if len(ended) else ids)


def in_batches[Item](
    items: Sequence[Item], batch_size: int
) -> Iterator[tuple[list[Item], int]]:
    """Lists of exactly batch_size items, and how many of each are not filling."""
    for start in range(0, len(items), batch_size):
        batch = list(items[start : start + batch_size])
        yield batch + batch[-1:] * (batch_size - len(batch)), len(batch)


def _drawing(trained: TrainedRun) -> Callable:
    def draw(variables: dict, guided: GuidedRows, key: jax.Array) -> jax.Array:
        return draw_images(
            trained.experiment.objective,
            trained.bound(variables),
            guided,
            trained.experiment.sampling,
            trained.assembly.image_codes,
            key,
        )

    return draw


def _captioning(trained: TrainedRun) -> Callable:
    # The model may have more rows than the vocabulary has ids.
    allowed = np.zeros(trained.assembly.vocabulary_size, bool)
    allowed[: len(trained.tokenizer.is_word)] = trained.tokenizer.is_word
    allowed[trained.assembly.vocabulary.special.end] = True

    def caption(variables: dict, shown: TokenGroup, key: jax.Array) -> jax.Array:
        return caption_images(
            trained.bound(variables),
            GuidedRows(shown),
            trained.experiment.sampling,
            allowed,
            key,
        )

    return caption


def _pictures(trained: TrainedRun, drawn: np.ndarray) -> np.ndarray:
    """uint8 images [B, Y, X, channels] of codes [B, N] or patches [B, N, P]."""
    if not trained.experiment.objective.continuous_images:
        return trained.codec.decode(drawn)
    data = trained.experiment.data
    if data.latent_channels:
        latents = [patches_to_latents(patch_NP, data) for patch_NP in drawn]
        return trained.codec.decode(np.stack(latents))
    return np.stack([patches_to_pixels(patch_NP, data) for patch_NP in drawn])


def _no_images(trained: TrainedRun) -> np.ndarray:
    data = trained.experiment.data
    shape = (0, data.image_size, data.image_size, data.image_channels)
    return np.zeros(shape, np.uint8)
