"""What trains the rules by which routers choose when decoding.

Where training chooses with a view of the whole row (top-k), a second rule learns to
choose the same without it (Mixture-of-Depths, 2404.02258, section 3.5); its loss does
not reach the rest of the model, so its weight matters little.
"""

import jax
import jax.numpy as jnp

from unimod_jax.models import LayerReport
from unimod_jax.objectives.objective import Metrics


def router_loss(reports: list[LayerReport]) -> tuple[jax.Array, Metrics]:
    """The sum of all auxiliary losses, and the gap between the two rules.

    Args:
      reports: one per run of layers, stacked over its layers.

    Returns:
      (float32 scalar before any coefficient; "disagreement/run_1/<task>/<stream>" ->
      share of tokens on which training and decoding choose differently, for the routes
      that have two rules).
    """
    total = jnp.zeros((), jnp.float32)
    gaps: Metrics = {}
    for run, report in enumerate(reports):
        for task, streams in report.items():
            for stream, routing in streams.items():
                total += jnp.sum(routing.auxiliary_loss)
                gap = jnp.mean(routing.disagreement)
                gaps[f"disagreement/run_{run}/{task}/{stream}"] = gap
    return total, gaps
