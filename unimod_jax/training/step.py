"""One training step, and the metrics it reports."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unimod_jax.layout import UnifiedBatch
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import (
    LayerDesign,
    LayerReport,
    RoutingReport,
    UnifiedModel,
    by_layer,
)
from unimod_jax.objectives import Objective, router_loss, total_loss
from unimod_jax.training.accumulation import OfRows, accumulated
from unimod_jax.training.skipped_steps import keep_unless_good
from unimod_jax.training.state import TrainState

type Metrics = dict[str, jax.Array]
type Step = Callable[[TrainState, UnifiedBatch], tuple[TrainState, Metrics]]


def training_step(
    model: UnifiedModel,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    task_weights: Mapping[str, float],
    accumulation_steps: int = 1,
    skip_above: float = 0.0,
) -> Step:
    """The function (state, batch) -> (next state, metrics); jit it with donation.

    Args:
      model, objective, optimizer: what is trained, on what, and how.
      task_weights: task -> weight of its loss.
      accumulation_steps: parts that a step's rows are taken in (`accumulation`).
      skip_above: gradient norm beyond which an update is thrown away, as one that is
        not finite always is; 0 for none. See `skipped_steps`.
    """

    def step(state: TrainState, batch: UnifiedBatch) -> tuple[TrainState, Metrics]:
        noise_key, dropout_key = jax.random.split(
            jax.random.fold_in(state.key, state.step)
        )
        gradient, metrics, router_state = accumulated(
            _gradient_of_rows(
                model, objective, task_weights, state.params, dropout_key
            ),
            state.params,
            state.router_state,
            objective.corrupt(batch, noise_key),
            accumulation_steps,
        )
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.params
        )
        metrics |= {"gradient_norm": optax.tree.norm(gradient)}
        next_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            router_state=router_state,
            optimizer_state=optimizer_state,
            key=state.key,
        )
        return keep_unless_good(state, next_state, metrics, skip_above)

    return step


def _gradient_of_rows(
    model: UnifiedModel,
    objective: Objective,
    task_weights: Mapping[str, float],
    params: optax.Params,
    dropout_key: jax.Array,
) -> OfRows:
    """What `accumulated` takes each part of a step's rows with."""
    auxiliary_weight, designs = model.spec.routing.auxiliary_weight, model.spec.designs
    has_dropout = model.spec.config.has_dropout

    def loss_of(params: optax.Params, router_state, rows, key: jax.Array):
        seen, noise = rows
        variables: dict[str, Any] = {"params": params, STATE: router_state}
        (outputs, reports), changed = model.apply(
            *(variables, seen),
            mutable=[STATE],
            rngs={"dropout": key} if has_dropout else {},
        )
        loss, metrics = total_loss(objective, seen, noise, outputs, task_weights)
        auxiliary, of_routers = router_loss(reports, designs)
        metrics |= of_routers | kept_shares(reports, designs, seen)
        total = loss + auxiliary_weight * auxiliary
        return total, (metrics | {"loss": loss}, changed.get(STATE, {}))

    def of_rows(router_state, rows, part: jax.Array):
        key = jax.random.fold_in(dropout_key, part)
        gradient, (metrics, router_state) = jax.grad(loss_of, has_aux=True)(
            params, router_state, rows, key
        )
        return gradient, metrics, router_state

    return of_rows


def kept_shares(
    reports: list[LayerReport], designs: tuple[LayerDesign, ...], batch: UnifiedBatch
) -> Metrics:
    """Share of valid tokens that routed layers kept: "kept/layer_3/<task>/<stream>"."""

    def share(task: str, stream: str, routing: RoutingReport) -> jax.Array:
        valid_BT = batch[task].streams[stream].position_BT >= 0
        num_valid = jnp.sum(valid_BT.astype(jnp.float32))
        num_kept_L = jnp.sum(routing.kept_BT.astype(jnp.float32), axis=(1, 2))
        return num_kept_L / jnp.maximum(num_valid, 1.0)

    shares = by_layer(reports, designs, share)
    return {f"kept/{name}": kept for name, kept in shares.items()}
