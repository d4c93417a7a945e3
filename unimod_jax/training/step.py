"""One training step, and the metrics it reports."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unimod_jax.layout import UnifiedBatch
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import UnifiedModel
from unimod_jax.models.transformer import KeptReport
from unimod_jax.objectives import Objective, total_loss
from unimod_jax.training.state import TrainState

type Metrics = dict[str, jax.Array]
type Step = Callable[[TrainState, UnifiedBatch], tuple[TrainState, Metrics]]


def training_step(
    model: UnifiedModel, objective: Objective, optimizer: optax.GradientTransformation
) -> Step:
    """The function (state, batch) -> (next state, metrics); jit it with donation."""

    def step(state: TrainState, batch: UnifiedBatch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        seen, noise = objective.corrupt(batch, key)

        def loss_of(params: optax.Params):
            variables: dict[str, Any] = {"params": params, STATE: state.router_state}
            (outputs, reports), changed = model.apply(variables, seen, mutable=[STATE])
            loss, metrics = total_loss(objective, seen, noise, outputs)
            metrics |= kept_shares(reports, seen)
            return loss, (metrics, changed.get(STATE, {}))

        grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (metrics, router_state)), gradient = grad(state.params)
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.params
        )
        metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        next_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            router_state=router_state,
            optimizer_state=optimizer_state,
            key=state.key,
        )
        return next_state, metrics

    return step


def kept_shares(reports: list[KeptReport], batch: UnifiedBatch) -> Metrics:
    """Share of valid tokens that routed layers kept: "kept/run_1/<task>/<stream>"."""
    shares: Metrics = {}
    for run, report in enumerate(reports):
        for task, streams in report.items():
            for stream, kept_LBT in streams.items():
                valid_BT = batch[task].streams[stream].position_BT >= 0
                num_valid = jnp.sum(valid_BT.astype(jnp.float32)) * kept_LBT.shape[0]
                shares[f"kept/run_{run}/{task}/{stream}"] = (
                    jnp.sum(kept_LBT.astype(jnp.float32)) / num_valid
                )
    return shares
