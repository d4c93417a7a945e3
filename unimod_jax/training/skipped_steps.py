"""Steps whose update is thrown away because it would spoil the parameters.

A loss or gradient that is not finite, or a gradient norm far beyond the usual, is
decided on the devices: the step keeps parameters, optimiser and router state as they
were, takes its number and its batch, and says so in its metrics. The host looks at
these only where it writes a row of metrics, so nothing waits for it.

A run may skip `training.skip_budget` steps between two checkpoints. With more it stops:
what it resumes from is always a checkpoint, and the count from there on is the same
however often the run was interrupted.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from unimod_jax.training.run_directory import RunError
from unimod_jax.training.state import TrainState

METRIC = "skipped_steps"


def keep_unless_good(
    before: TrainState,
    after: TrainState,
    metrics: Mapping[str, jax.Array],
    skip_above: float = 0.0,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after a step, or the one before where the step is no good.

    Args:
      before, after: states around the step.
      metrics: of the step, with float32 scalars "loss" and "gradient_norm".
      skip_above: the largest gradient norm that is good; 0 for any finite one.

    Returns:
      (the state to go on with, its step count that of `after`; the metrics with
      "skipped_steps", a float32 scalar: 1 where the step was skipped and else 0).
    """
    norm = metrics["gradient_norm"]
    good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    if skip_above:
        good &= norm <= skip_above
    changing = ("params", "router_state", "optimizer_state")
    kept = jax.tree.map(
        lambda new, old: jnp.where(good, new, old),
        {name: getattr(after, name) for name in changing},
        {name: getattr(before, name) for name in changing},
    )
    skipped = 1.0 - good.astype(jnp.float32)
    return dataclasses.replace(after, **kept), {**metrics, METRIC: skipped}


class SkipBudget:
    """Counts skipped steps since the last checkpoint."""

    def __init__(self, budget: int, skip_above: float):
        """Starts with none.

        Args:
          budget: most steps to skip between two checkpoints.
          skip_above: see `keep_unless_good`; for the message.
        """
        self._budget, self._skip_above = budget, skip_above
        self._unread: list[tuple[int, Mapping[str, jax.Array]]] = []
        self._since_checkpoint = 0

    def step_started(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Notes a step; reads nothing."""
        self._unread.append((step, metrics))

    def take(self, saved: int | None) -> int:
        """Steps skipped since this was last asked; waits for the last one.

        Args:
          saved: step of the newest checkpoint, for the message.

        Raises:
          RunError: naming the last checkpoint, if the budget is spent.
        """
        skipped = [
            (step, metrics) for step, metrics in self._unread if float(metrics[METRIC])
        ]
        self._unread.clear()
        self._since_checkpoint += len(skipped)
        if self._since_checkpoint > self._budget:
            step, metrics = skipped[0]
            raise RunError(self._sentence(step, metrics, saved))
        return len(skipped)

    def saved(self) -> None:
        """A checkpoint was taken: counts anew."""
        self._since_checkpoint = 0

    def _sentence(
        self, step: int, metrics: Mapping[str, jax.Array], saved: int | None
    ) -> str:
        last = "nothing is saved" if saved is None else f"checkpoint {saved} is intact"
        values = {name: float(metrics[name]) for name in ("loss", "gradient_norm")}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        what = (
            f"{bad[0]} became {values[bad[0]]}"
            if bad
            else f"gradient_norm {values['gradient_norm']:.3g} exceeded "
            f"training.skip_above {self._skip_above:g}"
        )
        allowed = (
            f", the {self._since_checkpoint}th skipped step since the last checkpoint,"
            if self._budget
            else ""
        )
        return (
            f"{what} at step {step}{allowed} and training stopped; {last}; lower "
            f"training.learning_rate or training.clip_norm, or raise "
            f"training.skip_budget."
        )
