"""How fast a step can be at best: the slowest of arithmetic, memory and links.

Nothing here is measured. Each resource is taken at its maker's peak, and the three are
taken to overlap perfectly, so a real step takes longer; which resource is the slowest,
and by how much, is what the estimate is for.
"""

import dataclasses

from unimod_jax.parallel.chips import Chip


@dataclasses.dataclass(frozen=True)
class ChipWork:
    """What one chip does in one step.

    Attributes:
      useful_flops: of the model, forward and backward (`models.accounting`).
      executed_flops: with what the backward pass computes again.
      hbm_bytes: read and written.
      collective_bytes: sent to other chips.
      tokens: of the rows that a chip is responsible for: all tokens over all chips.
    """

    useful_flops: float
    executed_flops: float
    hbm_bytes: float
    collective_bytes: float
    tokens: float


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bounds on a step's time, in seconds.

    Attributes:
      work: of one chip.
      chip: which one.
      num_chips: of the slice or hosts.
    """

    work: ChipWork
    chip: Chip
    num_chips: int

    @property
    def compute_seconds(self) -> float:
        """Executed FLOPs / peak FLOPs per second."""
        return self.work.executed_flops / self.chip.peak_flops_per_second

    @property
    def hbm_seconds(self) -> float:
        """Bytes read and written / memory bandwidth."""
        return self.work.hbm_bytes / self.chip.hbm_bytes_per_second

    @property
    def collective_seconds(self) -> float:
        """Bytes sent / what the chip's links send together.

        A collective along one axis of a mesh uses some links only; and GPUs of several
        hosts are charged the network for everything.
        """
        links = self.chip.link_bytes_per_second(self.num_chips)
        return self.work.collective_bytes / links

    @property
    def step_seconds(self) -> float:
        """The largest of the three."""
        return max(self.compute_seconds, self.hbm_seconds, self.collective_seconds)

    @property
    def slowest(self) -> str:
        """What the step waits for: "compute", "hbm" or "collectives"."""
        seconds = {
            "compute": self.compute_seconds,
            "hbm": self.hbm_seconds,
            "collectives": self.collective_seconds,
        }
        return max(seconds, key=lambda name: seconds[name])

    @property
    def utilisation(self) -> float:
        """Useful FLOPs / (step seconds x peak): the most that can be reached."""
        possible = self.step_seconds * self.chip.peak_flops_per_second
        return self.work.useful_flops / possible

    @property
    def tokens_per_second_per_chip(self) -> float:
        """Slots of all rows / (step seconds x chips)."""
        return self.work.tokens / self.step_seconds
