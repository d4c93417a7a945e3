"""Presets and variants as models of a few thousand parameters, and rows for them."""

import dataclasses

import numpy as np

from experiments.benchmark.workload import with_shares
from experiments.published import published
from unimod_jax.data import Image, Record, Speech, Text, TextTokenizer
from unimod_jax.data.example_rows import first_rows
from unimod_jax.layout import IMAGE, SPEECH, TEXT, PartSizes, Task, UnifiedBatch
from unimod_jax.objectives import MaskedImage
from unimod_jax.training import Assembly, Experiment, reduced_twin

NUM_STEPS = 3
_ROWS = 8
_LONGEST = 12
_CAPTIONS = tuple(
    " ".join(np.random.default_rng(length).choice(["a", "b"], length))
    for length in range(_LONGEST - _ROWS + 1, _LONGEST + 1)
)
"""One token a word; long, so that a fifth of a row's words predicts something."""


def tiny_twin(preset: str, variant: str) -> Experiment:
    """The reduced twin of width 16, with images of 4 x 4 and eight rows of a task.

    It has the fewest layers that show the variant: one, or a second one that routes.
    Half of two layers and every other of two are the same layer, so variants that
    differ in nothing else have the same twin. Weights do not decay: only a gradient
    moves a parameter.

    Raises:
      ValueError: if the variant does not apply to the preset.
    """
    full = published(preset, variant)
    num_layers = 2 if _routes(full) else 1
    twin = reduced_twin(full, width=16, num_layers=num_layers)
    shares = _tasks_that_matter(twin)
    spoken = {"speech_units": 4, "speech_tokens": 3} if twin.data.speech_units else {}
    data = dataclasses.replace(
        twin.data,
        image_size=4,
        image_levels=4,
        image_line=4 if twin.data.image_line else 0,
        caption_tokens=_LONGEST,
        text_vocabulary_size=12,
        batch_size=_ROWS * sum(shares.values()),
        **spoken,
    )
    training = dataclasses.replace(
        twin.training, steps=NUM_STEPS, warmup_steps=0, weight_decay=0.0
    )
    small = dataclasses.replace(
        twin,
        data=data,
        tasks=with_shares(twin.tasks, shares),
        training=training,
    )
    sizes = Assembly(small).sizes
    tasks = tuple(_with_small_documents(task, sizes) for task in small.tasks)
    return dataclasses.replace(small, tasks=tasks)


def _routes(experiment: Experiment) -> bool:
    return any(experiment.mod.routes(experiment.model.num_layers))


def _tasks_that_matter(twin: Experiment) -> dict[str, int]:
    """One row each of the fewest tasks that train everything; others only compile.

    Routed tasks have routers, and Show-o's codes and words learn from a task each.
    Otherwise one task is enough.
    """
    if any(task.documents and task.share for task in twin.tasks):
        return {"interleaved": 1}
    both = isinstance(twin.objective, MaskedImage) or _routes(twin)
    return {"text_to_image": 1, "image_to_text": int(both)}


def _with_small_documents(task: Task, sizes: PartSizes) -> Task:
    """Rows of documents with as many slots as the largest records need."""
    if task.documents is None:
        return task
    of_record = {
        TEXT: _LONGEST + 2 * len(task.documents.slots),
        IMAGE: sizes.image_slots,
        SPEECH: sizes.speech_units,
    }
    slots = tuple(
        (name, task.documents.documents_per_row * of_record[name])
        for name, _ in task.documents.slots
    )
    documents = dataclasses.replace(task.documents, slots=slots)
    return dataclasses.replace(task, documents=documents)


def tiny_batch(assembly: Assembly) -> UnifiedBatch:
    """A batch of made-up records."""
    data = assembly.experiment.data
    rng = np.random.default_rng(0)
    records = []
    for number, caption in enumerate(_CAPTIONS):
        parts = [Image(rng.integers(0, 256, (4, 4, 1), np.uint8)), Text((caption,))]
        if data.speech_units:
            units = rng.integers(0, 4, 2 + number % 2).tolist()
            parts.append(Speech(tuple(units)))
        records.append(Record(tuple(parts), f"record {number}"))
    tokenizer = TextTokenizer.train(_CAPTIONS, assembly.vocabulary)
    return first_rows(data, assembly.layouts, assembly.rows, records, tokenizer)
