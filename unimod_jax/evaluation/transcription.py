"""Captions for spoken units: what a run with speech writes after hearing a digit."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.data import Judge, Record, Speech, Text, stack_rows
from unimod_jax.evaluation.judged_rows import JudgedPiece, judged
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
    trained: TrainedRun,
    layout: InterleavedLayout,
    speech: Sequence[Sequence[int]],
    batch_size: int = BATCH_SIZE,
) -> list[str]:
    """The greedy caption that follows each utterance.

    Args:
      trained: a run with speech.
      layout: of its rows of documents.
      speech: units of each utterance, from 0.
      batch_size: utterances that go through the model at once.
    """
    write = jax.jit(functools.partial(_write_caption, trained))
    documents = [_heard(trained, units) for units in speech]
    texts = []
    for batch, num_rows in in_batches(documents, batch_size):
        rows = stack_rows([lay_out_documents([one], layout) for one in batch])
        ids = np.asarray(write(trained.variables, rows))
        texts += [_text_of(trained, row) for row in ids[:num_rows]]
    return texts


def judged_transcription(
    trained: TrainedRun,
    layout: InterleavedLayout,
    records: Sequence[Record],
    judge: Judge | None,
) -> list[JudgedPiece]:
    """What a run writes after the utterances of records; one piece, or none.

    None for a run without speech, one that cannot write token by token, and records
    without both an utterance and a text.
    """
    heard = [(r, speech, text) for r in records for speech, text in _heard_and_said(r)]
    can_hear = SPEECH in trained.experiment.model.modalities
    if not heard or not can_hear:
        return []
    if why_not_token_by_token(trained.assembly.spec, layout):
        return []
    texts = transcribe(trained, layout, [speech.units for _, speech, _ in heard])
    piece = judged(
        judge,
        [record for record, _, _ in heard],
        task=layout.task,
        piece=TEXT,
        modality=TEXT,
        shown=[{SPEECH: speech.units} for _, speech, _ in heard],
        written=texts,
        real=[text for _, _, text in heard],
    )
    return [piece]


def _heard_and_said(record: Record) -> Iterator[tuple[Speech, Text]]:
    """The first utterance of a record and its first text, if it has both."""
    speech = next((part for part in record.parts if isinstance(part, Speech)), None)
    text = next((part for part in record.parts if isinstance(part, Text)), None)
    if speech and text:
        yield speech, text


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
