"""Towers: a MoT step beside the dense step that spends as many FLOPs on each token.

MoT's own code takes 35% longer than its dense baseline of equal FLOPs (2411.04996,
section 4), because it gathers each modality's tokens by a mask. Here a modality's
tokens stand together, so K towers are K matrix products on fewer tokens each.
"""

import dataclasses

from experiments.benchmark.race import race_experiments
from experiments.benchmark.suite import Record, Setting, SuiteResult
from experiments.benchmark.workload import Size, sized
from unimod_jax.layout import IMAGE, SPEECH, Piece, SpecialTokens, Task
from unimod_jax.training import Experiment

_TWO, _THREE = "chameleon_1_5b", "chameleon_1_5b_speech"
_VARIANTS = ("dense", "mot")
_TEXT_TOKENS = {_TWO: 1020, _THREE: 730}
"""Of a row with one image: as many as the preset's rows of documents have beside each,
less the markers. Prompts of 125, the preset's own, would leave the text tower idle."""


def three_modalities(speech_slots: int) -> Task:
    """Rows of a text, the same spoken, and an image.

    No published system has such rows: with speech the papers pack documents.

    Args:
      speech_slots: of an utterance; those of text and image follow the data.
    """
    special = SpecialTokens()
    return Task(
        "three_modalities",
        (
            Piece.fixed("begin", special.begin),
            Piece("prompt", part="text"),
            Piece("speech", SPEECH, speech_slots, part="speech"),
            Piece("begin_image", ids=(special.begin_image,)),
            Piece("image", IMAGE, part="image", written=True),
        ),
    )


def towers_suite(setting: Setting) -> SuiteResult:
    """Times fixed rows of two and three modalities, and packed documents of two."""
    records = []
    for rows, make in _PAIRS.items():
        records += race_experiments(
            {variant: make(setting, variant) for variant in _VARIANTS},
            setting.say,
            seconds=setting.seconds / len(_PAIRS),
            rows=rows,
        )
    return SuiteResult(records, towers_figures(records))


def towers_figures(records: list[Record]) -> dict[str, float]:
    """Untied over dense step time, such as "towers.fixed.k2.step_ratio".

    Args:
      records: with `rows`, `contender` and `step_seconds`.
    """
    seconds = {(r["rows"], r["contender"]): r["step_seconds"] for r in records}
    return {
        f"towers.{rows}.step_ratio": time / seconds[rows, "dense"]
        for (rows, contender), time in seconds.items()
        if contender == "mot"
    }


def _size(setting: Setting, **rows: int) -> Size:
    if setting.quick:
        return Size(rows, width=32, num_layers=2, head_dim=16, dtype="float32")
    if setting.platform == "cpu":
        return Size(rows, width=512, num_layers=2, dtype="float32")
    return Size(rows)


def _fixed_two(setting: Setting, variant: str) -> Experiment:
    size = _size(setting, text_to_image=2, image_to_text=2)
    return _with_long_texts(sized(_TWO, variant, size), _TWO)


def _fixed_three(setting: Setting, variant: str) -> Experiment:
    size = _size(setting, text_to_image=4)
    experiment = _with_long_texts(sized(_THREE, variant, size), _THREE)
    spoken = three_modalities(experiment.data.caption_tokens)
    return dataclasses.replace(experiment, tasks=(spoken,))


def _with_long_texts(experiment: Experiment, preset: str) -> Experiment:
    data = dataclasses.replace(experiment.data, caption_tokens=_TEXT_TOKENS[preset])
    return dataclasses.replace(experiment, data=data)


def _interleaved_two(setting: Setting, variant: str) -> Experiment:
    return sized(_TWO, variant, _size(setting, interleaved=2))


_PAIRS = {
    "fixed.k2": _fixed_two,
    "fixed.k3": _fixed_three,
    "interleaved.k2": _interleaved_two,
}
