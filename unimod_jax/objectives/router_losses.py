"""What trains the rules by which routers choose when decoding.

Where training chooses with a view of the whole row (top-k), a second rule learns to
choose the same without it (Mixture-of-Depths, 2404.02258, section 3.5); its loss does
not reach the rest of the model, so its weight matters little.
"""

import jax
import jax.numpy as jnp

from unimod_jax.models import LayerDesign, LayerReport, by_layer
from unimod_jax.objectives.objective import Metrics


def router_loss(
    reports: list[LayerReport], designs: tuple[LayerDesign, ...]
) -> tuple[jax.Array, Metrics]:
    """The sum of all auxiliary losses, and the gap between the two rules.

    Args:
      reports: one per run of layers, stacked over its layers.
      designs: of all layers.

    Returns:
      (float32 scalar before any coefficient; "disagreement/layer_3/<task>/<stream>" ->
      share of tokens on which training and decoding choose differently, for the routes
      that have two rules).
    """
    losses = [
        jnp.sum(routing.auxiliary_loss)
        for report in reports
        for streams in report.values()
        for routing in streams.values()
    ]
    gaps = by_layer(reports, designs, lambda task, stream, of_run: of_run.disagreement)
    total = sum(losses, jnp.zeros((), jnp.float32))
    return total, {f"disagreement/{name}": gap for name, gap in gaps.items()}
