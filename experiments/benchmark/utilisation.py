"""Utilisation: the share of a GPU's peak that is useful work, at 1.4B parameters.

Convention. Useful FLOPs are those of `models.accounting` (`with_head`): matrix products
of forward and backward pass, two FLOPs per multiply-add, attention over all pairs of a
row's tokens; recomputation, norms, softmax and the optimiser count as nothing. A routed
step is credited only with the tokens it keeps, so its useful utilisation says whether
skipping tokens leaves the chip idle. Peaks are the makers' dense bfloat16 figures.
"""

from experiments.benchmark.race import race_experiments
from experiments.benchmark.suite import Record, Setting, SuiteResult
from experiments.benchmark.workload import Size, sized
from pallas_kernels.device import current_device

PEAK_FLOPS_PER_SECOND = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}
"""Part of a device's name -> dense bfloat16 FLOPs per second, SXM modules (NVIDIA's
data sheets of 2020, 2023 and 2024)."""

_ROWS = {"text_to_image": 8, "image_to_text": 8}
_NAMES = {
    "dense": "gpu.dense.mfu",
    "mot": "gpu.mot.mfu",
    "unimod": "gpu.unimod.useful_mfu",
}


def peak_flops_per_second(device_kind: str) -> float | None:
    """Dense bfloat16 peak of a device by its name; None for one that is not known."""
    known = (
        peak for name, peak in PEAK_FLOPS_PER_SECOND.items() if name in device_kind
    )
    return next(known, None)


def utilisation_suite(setting: Setting) -> SuiteResult:
    """Times Show-o (1.45B activated parameters) dense, with towers, and routed."""
    kind = current_device().kind
    peak = peak_flops_per_second(kind)
    if peak is None:
        setting.say(
            f"utilisation: left out, for the bfloat16 peak of {kind!r} is not known; "
            f"known are {sorted(PEAK_FLOPS_PER_SECOND)}."
        )
        return SuiteResult([], {})
    measured = race_experiments(
        {variant: sized("show_o_512", variant, Size(_ROWS)) for variant in _NAMES},
        setting.say,
        seconds=setting.seconds,
    )
    records: list[Record] = [
        record | {"peak_flops_per_second": peak} for record in measured
    ]
    return SuiteResult(records, utilisation_figures(records))


def utilisation_figures(records: list[Record]) -> dict[str, float]:
    """Shares of the peak, and how far the routed step's lies below the dense one's.

    Args:
      records: with `contender`, `flops_per_second` and `peak_flops_per_second`.
    """
    figures = {
        _NAMES[r["contender"]]: r["flops_per_second"] / r["peak_flops_per_second"]
        for r in records
    }
    lost = figures[_NAMES["dense"]] - figures[_NAMES["unimod"]]
    return figures | {"gpu.unimod.useful_mfu_below_dense": lost}
