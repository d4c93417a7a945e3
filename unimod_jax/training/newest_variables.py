"""The variables of a run as it stands: its newest checkpoint, or converted weights."""

from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from unimod_jax.parallel import ShardingRules
from unimod_jax.training.checkpoint import RunCheckpoints
from unimod_jax.training.converted_weights import load_weights
from unimod_jax.training.experiment import Assembly
from unimod_jax.training.processes import ALONE, Processes
from unimod_jax.training.run_directory import RunDirectory, RunError
from unimod_jax.training.sharded_step import abstract_state, placed_state
from unimod_jax.training.state import TrainState


def newest_variables(
    run: RunDirectory,
    assembly: Assembly,
    mesh: Mesh | None = None,
    rules: ShardingRules | None = None,
    processes: Processes = ALONE,
) -> tuple[dict[str, Any], int]:
    """Parameters and router state of a run or a converted model.

    A checkpoint that cannot be read is named in a warning and passed over. The whole
    state is read, and all but the variables is let go.

    Args:
      run: its directory, which may be being written.
      assembly: of its own experiment.
      mesh, rules: where each array goes; one device unless given.
      processes: that all call this.

    Returns:
      (the variables, the step that they come from: 0 of a converted model).

    Raises:
      RunError: if there is no checkpoint that can be read, and no weights.
    """
    if run.checkpoints.is_dir():
        training = assembly.experiment.training
        checkpoints = RunCheckpoints(
            run.checkpoints, training, read_only=True, processes=processes
        )
        try:
            restored = checkpoints.restore(_state_shapes(assembly, mesh, rules))
        finally:
            checkpoints.close()
        if restored is not None:
            state, step = restored
            return state.variables(), step
    if run.weights.is_dir():
        return load_weights(run.weights, assembly, mesh, rules), 0
    raise RunError(
        f"{run.path} has no checkpoint yet; train it until its first checkpoint is "
        f"saved, or give another run directory."
    )


def _state_shapes(
    assembly: Assembly, mesh: Mesh | None, rules: ShardingRules | None
) -> TrainState:
    """Shapes of the training state in their places, without computing anything."""
    boxed = abstract_state(assembly)
    if mesh is not None:
        return placed_state(boxed, mesh, rules or ShardingRules())
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        nn.unbox(boxed),
    )
