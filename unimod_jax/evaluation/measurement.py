"""Everything that is measured of a trained run, in one pass over held-out records."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unimod_jax.data import Judge, Record, open_judge, open_split, prepare
from unimod_jax.evaluation.decoding_costs import (
    ROWS_PER_TASK,
    DecodingCosts,
    measure_decoding,
)
from unimod_jax.evaluation.dense_twin import (
    DenseTwinComparison,
    compare_with_dense_twin,
)
from unimod_jax.evaluation.judged_rows import (
    JudgedPiece,
    evenly_wanted,
    judge_accuracy,
    write_rows,
)
from unimod_jax.evaluation.routing_maps import RoutingMap, routing_maps
from unimod_jax.evaluation.sampler import Sampler
from unimod_jax.evaluation.trained_run import TrainedRun
from unimod_jax.evaluation.transcription import judged_transcription
from unimod_jax.generation import why_not_token_by_token
from unimod_jax.layout import IMAGE, InterleavedLayout, SegmentSpec, TaskLayout
from unimod_jax.objectives import ImageDiffusion, MaskedImage
from unimod_jax.parallel import MeshConfig
from unimod_jax.training import Assembly
from unimod_jax.training.held_out import RECORDS_PER_ROW, HeldOutLoss
from unimod_jax.training.learned_codec import coded

SEED = 0
"""Of what is written and of the noise in routing maps."""


class Limits(NamedTuple):
    """How much is measured.

    Attributes:
      rows: held-out records whose texts and utterances are written; None for all.
      images: images to draw for each task that does.
      twin_seconds: how long to take training steps beside the dense twin.
    """

    rows: int | None = None
    images: int = 200
    twin_seconds: float = 25.0


USUAL = Limits()
"""What `experiments.evaluate` measures without options."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured of a run.

    Attributes:
      trained: the run.
      held_out: its losses on held-out rows, as `HeldOutLoss` names them.
      pieces: what it wrote for held-out records, and whether that is right.
      maps: what routed layers keep.
      decoding: its caches, and the gap between its rules of choice.
      twin: its training step beside the dense twin's.
      judge_accuracy: part of the held-out records -> share of the real ones that the
        judge says are right; empty for a data set that brings no judge.
      records: the held-out records.
      notes: sentences on what could not be measured.
      seconds: part -> how long measuring it took.
    """

    trained: TrainedRun
    held_out: dict[str, float]
    pieces: list[JudgedPiece]
    maps: list[RoutingMap]
    decoding: DecodingCosts
    twin: DenseTwinComparison
    judge_accuracy: dict[str, float]
    records: Sequence[Record]
    notes: list[str]
    seconds: dict[str, float]


def measure(trained: TrainedRun, limits: Limits) -> Evaluation:
    """Takes all measurements of an opened run; writes nothing."""
    data = trained.experiment.data
    prepare(data)
    train_records = open_split(data, data.train_split)
    records = open_split(data, data.test_split)[:]
    seconds: dict[str, float] = {}
    with _clock(seconds, "judge"):
        judge = open_judge(data)
        own_accuracy = judge_accuracy(judge, records) if judge else {}
    with _clock(seconds, "held_out"):
        held_out = _held_out(trained, records)
    with _clock(seconds, "rows"):
        pieces, notes = _write(trained, records, judge, limits)
    with _clock(seconds, "routing_maps"):
        shown = coded(records[: limits.rows], trained.codec, data)
        maps = routing_maps(trained, shown, seed=SEED)
    with _clock(seconds, "decoding"):
        firsts = records[: ROWS_PER_TASK * RECORDS_PER_ROW]
        decoding = measure_decoding(trained, coded(firsts, trained.codec, data))
    with _clock(seconds, "dense_twin"):
        firsts = train_records[: data.batch_size * RECORDS_PER_ROW]
        firsts = coded(firsts, trained.codec, data)
        twin = compare_with_dense_twin(trained, firsts, seconds=limits.twin_seconds)
    if judge is None:
        notes.append(_NO_JUDGE)
    if twin.realised_saving is None:
        notes.append("No layer is routed, so no FLOPs are saved.")
    return Evaluation(
        trained,
        held_out,
        pieces,
        maps,
        decoding,
        twin,
        own_accuracy,
        records,
        notes,
        seconds,
    )


def _write(
    trained: TrainedRun,
    records: Sequence[Record],
    judge: Judge | None,
    limits: Limits,
) -> tuple[list[JudgedPiece], list[str]]:
    """What every task writes, and a sentence on each that cannot."""
    sampler, pieces, notes = Sampler(trained), list[JudgedPiece](), dict[str, None]()
    for layout in trained.assembly.layouts.values():
        if isinstance(layout, InterleavedLayout):
            pieces += judged_transcription(trained, layout, records, judge)
            continue
        assert isinstance(layout, TaskLayout)
        written = [segment for segment in layout.segments if segment.written]
        given = [s for s in layout.segments if s.part and not s.written]
        if not written or not given:
            continue
        if reason := _why_not(trained, layout, written):
            notes[reason] = None
            continue
        shown = records[: limits.rows]
        if any(segment.modality == IMAGE for segment in written):
            shown = evenly_wanted(records, layout, judge, limits.images)
        pieces += write_rows(sampler, layout, shown, judge, SEED)
    return pieces, list(notes)


def _held_out(trained: TrainedRun, records: Sequence[Record]) -> dict[str, float]:
    """The held-out losses that training would measure, on one device."""
    own = dataclasses.replace(trained.experiment, mesh=MeshConfig())
    firsts = records[: own.training.held_out_rows * RECORDS_PER_ROW]
    firsts = coded(firsts, trained.codec, own.data)
    measured = HeldOutLoss(Assembly(own), trained.model, firsts, trained.tokenizer)
    return measured(trained.variables)


def _why_not(
    trained: TrainedRun, layout: TaskLayout, written: Sequence[SegmentSpec]
) -> str:
    """A sentence on why a run cannot write the pieces of a task; "" if it can."""
    whole_rows = isinstance(trained.experiment.objective, MaskedImage | ImageDiffusion)
    if whole_rows and all(segment.modality == IMAGE for segment in written):
        return ""
    return why_not_token_by_token(trained.assembly.spec, layout)


_NO_JUDGE = (
    "The data set brings no judge (data.judge), so what is written is shown but not "
    "graded."
)


@contextlib.contextmanager
def _clock(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 2)
