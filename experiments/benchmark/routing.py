"""Routing: a UniMoD step beside that of its dense twin, in FLOPs, seconds and bytes.

UniMoD's own table has 15% fewer FLOPs giving 2-4% less time on Show-o and 40% giving
21% on Emu3 (2502.06474, table 1). `realised_saving` is the share of the FLOPs saved
that is also saved as time; `keep_all` routes and keeps everything, so its ratio is what
routing itself costs.
"""

import dataclasses

from experiments.benchmark.race import race_experiments
from experiments.benchmark.suite import Record, Setting, SuiteResult
from experiments.benchmark.workload import Size, sized
from unimod_jax.evaluation import realised_saving
from unimod_jax.mod import last_half

_BOTH = {"text_to_image": 1, "image_to_text": 1}
_EIGHT = dict.fromkeys(_BOTH, 8)

_SIZES = {
    # CPU: the published plans at an eighth to a quarter of the width, so rows of 256
    # codes: attention then has the share of a step's FLOPs that it has at full size
    # (about a tenth). Sixteen rows, so that what does not grow with tokens (optimiser,
    # small products) weighs no more than in a real batch; a few layers, for time.
    "cpu": {
        "show_o_512": Size(
            _EIGHT,
            width=512,
            num_layers=6,
            vocabulary_size=1024,
            image_side=16,
            dtype="float32",
        ),
        "emu3": Size(
            _EIGHT,
            width=512,
            num_layers=4,
            vocabulary_size=1024,
            image_side=16,
            dtype="float32",
        ),
    },
    # One accelerator of 141 GB: full width and rows; Show-o at full depth, of Emu3's 32
    # layers as many as fit three times beside their optimiser states in float32.
    "gpu": {
        "show_o_512": Size({"text_to_image": 5, "image_to_text": 5}),
        "emu3": Size(_BOTH, num_layers=4),
    },
}

_QUICK = Size(_BOTH, width=32, num_layers=2, head_dim=16, image_side=4, dtype="float32")

SWEEP = (0.2, 0.5, 1.0)
"""Keep ratios over the Emu3 plan: the first as published, the last keeps all."""


def routing_suite(setting: Setting) -> SuiteResult:
    """Times the Show-o plan, and the Emu3 plan at several keep ratios."""
    sizes = _SIZES["cpu" if setting.platform == "cpu" else "gpu"]
    if setting.quick:
        sizes = dict.fromkeys(sizes, _QUICK)
    show_o = {
        variant: sized("show_o_512", variant, sizes["show_o_512"])
        for variant in ("dense", "unimod")
    }
    unimod = sized("emu3", "unimod", sizes["emu3"])
    emu3 = {"dense": unimod.dense_twin()} | {
        _keeping(ratio): dataclasses.replace(
            unimod,
            mod=unimod.mod.with_ratios(last_half(unimod.model.num_layers, ratio)),
        )
        for ratio in SWEEP
    }
    records = []
    for system, contenders in (("show_o", show_o), ("emu3", emu3)):
        records += race_experiments(
            contenders,
            setting.say,
            seconds=setting.seconds / 2,
            system=system,
        )
    return SuiteResult(records, routing_figures(records))


def _keeping(keep_ratio: float) -> str:
    return f"keep_{round(100 * keep_ratio)}"


_FIGURE_OF = {
    ("show_o", "unimod"): "routing.show_o",
    ("emu3", _keeping(SWEEP[0])): "routing.emu3",
    ("emu3", _keeping(SWEEP[-1])): "routing.keep_all",
} | {("emu3", _keeping(r)): f"routing.emu3.{_keeping(r)}" for r in SWEEP[1:-1]}


def routing_figures(records: list[Record]) -> dict[str, float]:
    """Each routed step over its dense twin: time, FLOPs, bytes, and what is realised.

    Args:
      records: with `system`, `contender`, `step_seconds`, `flops` and `peak_bytes`.
    """
    by_name = {(r["system"], r["contender"]): r for r in records}
    figures = {}
    for key, name in _FIGURE_OF.items():
        routed, dense = by_name[key], by_name[key[0], "dense"]
        ratio = {
            what: routed[what] / dense[what]
            for what in ("step_seconds", "flops", "peak_bytes")
        }
        figures[f"{name}.step_ratio"] = ratio["step_seconds"]
        figures[f"{name}.flops_ratio"] = ratio["flops"]
        figures[f"{name}.peak_bytes_ratio"] = ratio["peak_bytes"]
        saving = realised_saving(ratio["flops"], ratio["step_seconds"])
        if saving is not None:
            figures[f"{name}.realised_saving"] = saving
    return figures
