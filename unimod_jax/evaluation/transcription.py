"""Captions for spoken units: what a run with speech writes after hearing a digit."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.data import Record, Speech, stack_rows
from unimod_jax.data.handwritten_digits.wordings import digit_in_caption
from unimod_jax.evaluation.accuracy import label_of
from unimod_jax.evaluation.sampler import BATCH_SIZE, in_batches
from unimod_jax.evaluation.trained_run import TrainedRun
from unimod_jax.generation import (
    NO_TOKEN,
    DocumentWriter,
    Grammar,
    GuidedRows,
    TokenSampler,
    why_not_token_by_token,
)
from unimod_jax.layout import (
    SPEECH,
    TEXT,
    InterleavedDocument,
    InterleavedLayout,
    Span,
    TokenGroup,
    lay_out_documents,
)


def transcribe(
    trained: TrainedRun, speech: Sequence[Sequence[int]], batch_size: int = BATCH_SIZE
) -> list[str]:
    """The greedy caption that follows each utterance.

    Args:
      trained: a run with speech and interleaved rows.
      speech: units of each utterance, from 0.
      batch_size: utterances that go through the model at once.
    """
    layout = _document_rows(trained)
    assert layout is not None, "asked of runs with rows of documents only"
    write = jax.jit(functools.partial(_write_caption, trained))
    documents = [_heard(trained, units) for units in speech]
    texts = []
    for batch, num_rows in in_batches(documents, batch_size):
        rows = stack_rows([lay_out_documents([one], layout) for one in batch])
        ids = np.asarray(write(trained.variables, rows))
        texts += [_text_of(trained, row) for row in ids[:num_rows]]
    return texts


def transcription_accuracy(
    trained: TrainedRun, records: Sequence[Record]
) -> float | None:
    """Share of held-out utterances whose caption names the digit that was said.

    None for a run without speech or interleaved rows, for one that cannot write token
    by token, and for data without labels.
    """
    heard = [(part.units, label_of(r)) for r in records if (part := _speech(r))]
    heard = [(units, label) for units, label in heard if label is not None]
    can_hear = SPEECH in trained.experiment.model.modalities
    layout = _document_rows(trained)
    if not heard or not can_hear or layout is None:
        return None
    if why_not_token_by_token(trained.assembly.spec, layout):
        return None
    texts = transcribe(trained, [units for units, _ in heard])
    named = [digit_in_caption(text) for text in texts]
    right = [said == label for said, (_, label) in zip(named, heard, strict=True)]
    return float(np.mean(right))


def _speech(record: Record) -> Speech | None:
    return next((part for part in record.parts if isinstance(part, Speech)), None)


def _document_rows(trained: TrainedRun) -> InterleavedLayout | None:
    """The layout of the first task with rows of documents; None without one."""
    layouts = trained.assembly.layouts.values()
    found = (each for each in layouts if isinstance(each, InterleavedLayout))
    return next(found, None)


def _heard(trained: TrainedRun, units: Sequence[int]) -> InterleavedDocument:
    vocabulary = trained.assembly.vocabulary
    start, special = vocabulary.speech_start, vocabulary.special
    return InterleavedDocument(
        (
            Span(TEXT, [special.begin, special.begin_speech]),
            Span(SPEECH, [start + unit for unit in units]),
            Span(TEXT, [special.end_speech]),
        )
    )


def _write_caption(trained: TrainedRun, variables: dict, rows: TokenGroup) -> jax.Array:
    """Ids [B, caption slots + 1]: a caption, then perhaps the opening of an image."""
    vocabulary = trained.assembly.vocabulary
    known = trained.tokenizer.pieces.get_vocab_size()
    # Speech may be followed by an image too; the first token has to be a word.
    words = Grammar(
        trained.assembly.spec.vocabulary_size,
        words=vocabulary.words_among(known),
        special=vocabulary.special,
    )
    # An opened image is never written here: a row rests there, its caption complete.
    words_or_image = dataclasses.replace(
        words, image_slots=trained.assembly.sizes.image_slots
    )
    guided, greedy = GuidedRows(rows), TokenSampler(temperature=0.0)
    writer = DocumentWriter(trained.bound(variables), guided, words, greedy)
    key = jax.random.key(0)
    first_B1, writing = writer.write_tokens(writer.start(), 1, key)
    writer = dataclasses.replace(writer, grammar=words_or_image)
    rest_BT, _ = writer.write_tokens(
        writing, trained.experiment.data.caption_tokens, key
    )
    return jnp.concatenate([first_B1, rest_BT], axis=1)


def _text_of(trained: TrainedRun, ids: np.ndarray) -> str:
    special = trained.assembly.vocabulary.special
    stops = (special.end, special.begin_image, NO_TOKEN)
    ended = np.flatnonzero(np.isin(ids, stops))
    return trained.tokenizer.decode(ids[: ended[0]] if len(ended) else ids)
