"""Training state: one pytree that a checkpoint holds and a step maps to the next."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from unimod_jax.layout import UnifiedBatch
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import UnifiedModel
from unimod_jax.mot import copy_towers
from unimod_jax.parallel import ShardingRules, tree_sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that changes from step to step, but the data iterator.

    Attributes:
      step: int32 scalar, steps taken.
      params: parameter tree.
      router_state: thresholds of the causal gates; empty without routed layers.
      optimizer_state: Optax state.
      key: typed random key of all noise in training; a step folds its number in.
    """

    step: jax.Array
    params: optax.Params
    router_state: Mapping[str, Any]
    optimizer_state: optax.OptState
    key: jax.Array

    def variables(self) -> dict[str, Any]:
        """Flax collections to apply the model with."""
        return {"params": self.params, STATE: self.router_state}


def make_state(
    model: UnifiedModel,
    optimizer: optax.GradientTransformation,
    batch: UnifiedBatch,
    seed: int,
    mesh: Mesh,
    rules: ShardingRules,
) -> tuple[TrainState, TrainState]:
    """A fresh state, made in place on its devices.

    Args:
      model: its parameters name their logical axes.
      optimizer: its slots take the axes of their parameters.
      batch: any batch of the right layouts, for shapes only.
      seed: of initialisation and of the state's key.
      mesh, rules: where each array goes.

    Returns:
      (the state, the same tree of its shardings).
    """

    make = jax.jit(functools.partial(fresh_state, model, optimizer, batch, seed))
    shardings = tree_sharding(jax.eval_shape(make), mesh, rules)
    unboxed = jax.jit(lambda: nn.unbox(make()), out_shardings=shardings)
    return unboxed(), shardings


def fresh_state(
    model: UnifiedModel,
    optimizer: optax.GradientTransformation,
    batch: UnifiedBatch,
    seed: int,
) -> TrainState:
    """A fresh state whose parameters are in boxes with their logical axes.

    Args:
      model, optimizer, batch, seed: as of `make_state`.
    """
    init_key, key = jax.random.split(jax.random.key(seed))
    variables = dict(model.init(init_key, batch))
    params = variables["params"]
    if model.spec.towers.initial_towers == "copies":
        params = copy_towers(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        router_state=variables.get(STATE, {}),
        optimizer_state=optimizer.init(params),
        key=key,
    )
