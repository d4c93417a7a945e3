"""Everything that is measured of a trained run, in one pass over held-out records."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence

from unimod_jax.data import Record, open_split, prepare
from unimod_jax.evaluation.accuracy import (
    Judged,
    caption_prompts,
    digit_prompts,
    judge_captions,
    judge_drawings,
    names_digits,
)
from unimod_jax.evaluation.decoding_costs import (
    ROWS_PER_TASK,
    DecodingCosts,
    measure_decoding,
)
from unimod_jax.evaluation.dense_twin import (
    DenseTwinComparison,
    compare_with_dense_twin,
)
from unimod_jax.evaluation.digit_classifier import DigitClassifier
from unimod_jax.evaluation.routing_maps import RoutingMap, routing_maps
from unimod_jax.evaluation.sampler import Sampler
from unimod_jax.evaluation.trained_run import TrainedRun
from unimod_jax.evaluation.transcription import transcription_accuracy
from unimod_jax.generation import why_not_token_by_token
from unimod_jax.layout import IMAGE, TEXT
from unimod_jax.objectives import ImageDiffusion, MaskedImage
from unimod_jax.parallel import MeshConfig
from unimod_jax.training import Assembly, RunError
from unimod_jax.training.held_out import RECORDS_PER_ROW, HeldOutLoss
from unimod_jax.training.learned_codec import coded

SEED = 0
"""Of drawings and of the noise in routing maps."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured of a run.

    Attributes:
      trained: the run.
      held_out: its losses on held-out rows, as `HeldOutLoss` names them.
      captions: held-out scans with generated captions; None if it cannot caption.
      drawings: prompts with generated images; None if it cannot draw.
      transcription_accuracy: of captions written after held-out utterances; None for a
        run without speech.
      maps: what routed layers keep.
      decoding: its caches, and the gap between its rules of choice.
      twin: its training step beside the dense twin's.
      classifier_accuracy: of the judge of drawings, on real held-out scans; None for a
        data set without digits.
      records: the held-out records.
      notes: sentences on what could not be measured.
      seconds: part -> how long measuring it took.
    """

    trained: TrainedRun
    held_out: dict[str, float]
    captions: Judged | None
    drawings: Judged | None
    transcription_accuracy: float | None
    maps: list[RoutingMap]
    decoding: DecodingCosts
    twin: DenseTwinComparison
    classifier_accuracy: float | None
    records: Sequence[Record]
    notes: list[str]
    seconds: dict[str, float]


def measure(
    trained: TrainedRun, captions_limit: int | None, images: int, twin_seconds: float
) -> Evaluation:
    """Takes all measurements of an opened run; writes nothing."""
    data = trained.experiment.data
    prepare(data)
    train_records = open_split(data, data.train_split)
    records = open_split(data, data.test_split)[:]
    shown = records[:captions_limit]
    sampler = Sampler(trained)
    has_digits = names_digits(records)
    notes = [] if has_digits else [_NO_DIGITS]
    seconds: dict[str, float] = {}
    with _clock(seconds, "classifier"):
        judge = DigitClassifier.fit(train_records) if has_digits else None
        own_accuracy = judge.held_out_accuracy(records) if judge else None
    with _clock(seconds, "held_out"):
        held_out = _held_out(trained, records)
    captions = drawings = None
    refusals = {written: _why_not(trained, written) for written in _GENERATED}
    notes += dict.fromkeys(filter(None, refusals.values()))
    with _clock(seconds, "captions"):
        if not refusals[TEXT]:
            captions = judge_captions(sampler, shown, has_digits)
    with _clock(seconds, "drawings"):
        if not refusals[IMAGE]:
            make_prompts = digit_prompts if has_digits else caption_prompts
            prompts = make_prompts(records, images)
            drawings = judge_drawings(sampler, prompts, judge, SEED)
    with _clock(seconds, "transcription"):
        transcribed = transcription_accuracy(trained, records)
    with _clock(seconds, "routing_maps"):
        maps = routing_maps(trained, coded(shown, trained.codec, data), seed=SEED)
    with _clock(seconds, "decoding"):
        firsts = records[: ROWS_PER_TASK * RECORDS_PER_ROW]
        decoding = measure_decoding(trained, coded(firsts, trained.codec, data))
    with _clock(seconds, "dense_twin"):
        firsts = train_records[: data.batch_size * RECORDS_PER_ROW]
        firsts = coded(firsts, trained.codec, data)
        twin = compare_with_dense_twin(trained, firsts, seconds=twin_seconds)
    if twin.realised_saving is None:
        notes.append("No layer is routed, so no FLOPs are saved.")
    return Evaluation(
        trained,
        held_out,
        captions,
        drawings,
        transcribed,
        maps,
        decoding,
        twin,
        own_accuracy,
        records,
        notes,
        seconds,
    )


def _held_out(trained: TrainedRun, records: Sequence[Record]) -> dict[str, float]:
    """The held-out losses that training would measure, on one device."""
    own = dataclasses.replace(trained.experiment, mesh=MeshConfig())
    firsts = records[: own.training.held_out_rows * RECORDS_PER_ROW]
    firsts = coded(firsts, trained.codec, own.data)
    measured = HeldOutLoss(Assembly(own), trained.model, firsts, trained.tokenizer)
    return measured(trained.variables)


_GENERATED = {TEXT: "caption images", IMAGE: "draw images"}


def _why_not(trained: TrainedRun, written: str) -> str:
    """A sentence on why a run cannot write a modality; "" if it can."""
    given = IMAGE if written == TEXT else TEXT
    try:
        layout = trained.layout_writing(written, {given})
    except RunError:
        return f"The run was not trained to {_GENERATED[written]}."
    whole_rows = isinstance(trained.experiment.objective, MaskedImage | ImageDiffusion)
    if written == IMAGE and whole_rows:
        return ""
    return why_not_token_by_token(trained.assembly.spec, layout)


_NO_DIGITS = (
    "The data set has no captions that name the digit of their label, so captions and "
    "drawings are shown but not graded."
)


@contextlib.contextmanager
def _clock(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 2)
