"""How a model is trained: the optimiser and its schedule, as the papers print them."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The numbers of a training run; the defaults are those of the toys.

    Attributes:
      steps: how many optimiser steps.
      learning_rate: peak of the schedule, after linear warm-up.
      router_learning_rate_ratio: the routers' learning rate over the others'.
      schedule: how the rate runs from its peak to `final_learning_rate`.
      warmup_steps: steps of linear warm-up from zero.
      final_learning_rate: where the schedule ends; a constant one stays at its peak.
      weight_decay: of AdamW.
      beta1, beta2, epsilon: of AdamW.
      clip_norm: largest global gradient norm; 0 does not clip.
    """

    steps: int = 1000
    learning_rate: float = 2e-3
    router_learning_rate_ratio: float = 1.0
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    warmup_steps: int = 100
    final_learning_rate: float = 4e-5
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuses schedules that cannot be followed."""
        if self.schedule == "exponential" and self.final_learning_rate <= 0.0:
            raise ValueError(
                f"an exponential schedule never reaches a final_learning_rate of "
                f"{self.final_learning_rate}; give it a small positive one."
            )
