"""What the figures should be: goals are compared with, never asserted in a test.

A figure without a goal here is context for one that has.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a figure should be.

    Attributes:
      bound: the figure should be at most or at least this.
      side: which of the two.
      meaning: what is compared, for tables.
    """

    bound: float
    side: Literal["at most", "at least"]
    meaning: str

    def is_met(self, figure: float) -> bool:
        """Whether a figure is on the right side of the bound."""
        return figure <= self.bound if self.side == "at most" else figure >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.side == 'at most' else '≥'} {self.bound:g}"


GOALS = {
    "routing.show_o.realised_saving": Goal(
        0.95, "at least", "Show-o plan: time saved over FLOPs saved"
    ),
    "routing.emu3.realised_saving": Goal(
        0.95, "at least", "Emu3 plan: time saved over FLOPs saved"
    ),
    "routing.keep_all.step_ratio": Goal(
        1.02, "at most", "routing that keeps every token, over the dense step"
    ),
    "towers.fixed.k2.step_ratio": Goal(
        1.03, "at most", "two towers, fixed rows, over the dense step"
    ),
    "towers.fixed.k3.step_ratio": Goal(
        1.03, "at most", "three towers, fixed rows, over the dense step"
    ),
    "towers.interleaved.k2.step_ratio": Goal(
        1.06, "at most", "two towers, interleaved documents, over the dense step"
    ),
    "peers.dense.step_ratio": Goal(1.0, "at most", "dense step over PyTorch's"),
    "peers.mot.step_ratio": Goal(1.0, "at most", "MoT step over PyTorch's"),
    "peers.mod.step_ratio": Goal(1.0, "at most", "routed step over PyTorch's"),
    "compile.unimod.ratio": Goal(
        2.5, "at most", "compiling the Emu3 plan over the dense model"
    ),
    "compile.ramp.ratio": Goal(
        8.0, "at most", "compiling Show-o's ramp over the dense model"
    ),
    "compile.ramp_quantised.ratio": Goal(
        4.0, "at most", "compiling the ramp in a few levels over the dense model"
    ),
    "compile.cached_start.speedup": Goal(
        3.0, "at least", "first start over the second of a command"
    ),
    "input.wait_share": Goal(0.02, "at most", "share of a step spent waiting for data"),
    "gpu.dense.mfu": Goal(0.5, "at least", "utilisation of the dense step"),
    "gpu.unimod.useful_mfu_below_dense": Goal(
        0.03, "at most", "utilisation that the routed step loses to the dense one"
    ),
}
"""Figure -> goal."""
