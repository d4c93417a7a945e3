"""Weights without a training state: how a converted model lies in its directory.

A converted model is a run directory that was never trained: configuration, tokenizer,
and `weights/` in place of checkpoints. Beside them lie the image tokenizer as it was
published, and what an export needs to write the published files again.
"""

from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, SingleDeviceSharding

from unimod_jax.parallel import ShardingRules, tree_sharding
from unimod_jax.training.experiment import Assembly
from unimod_jax.training.run_directory import RunError
from unimod_jax.training.sharded_step import abstract_state


def save_weights(directory: Path, variables: dict[str, Any]) -> None:
    """Writes Flax collections as one Orbax checkpoint, an array after the other.

    On the host there is nothing beyond the arrays themselves: no copy of those that are
    there already, and of others at most the largest. Compression would save next to
    nothing of float32, and hold as much again while it does.

    Args:
      directory: must not exist; it appears when everything is written.
      variables: "params" and the routers' state.
    """
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    # Orbax takes no array that is as large as its limit.
    limit = 1 + max(leaf.nbytes for leaf in jax.tree.leaves(variables))
    context.memory.transfer_concurrent_bytes = limit
    context.memory.write_concurrent_bytes = limit
    context.memory.deepcopy_host_arrays = False
    context.array.saving.use_compression = False
    with context:
        ocp.save(str(directory.absolute()), variables)


def load_weights(
    directory: Path,
    assembly: Assembly,
    mesh: Mesh | None = None,
    rules: ShardingRules | None = None,
) -> dict[str, Any]:
    """Reads what `save_weights` wrote, each array into its place.

    Args:
      directory: of the weights.
      assembly: of the experiment that they belong to.
      mesh, rules: where each array goes; one device unless given.

    Raises:
      RunError: if they cannot be read, or are of another model.
    """
    from orbax.checkpoint import v1 as ocp

    variables = abstract_state(assembly).variables()
    # A collection without an array is not in the files.
    boxed = {name: tree for name, tree in variables.items() if jax.tree.leaves(tree)}
    shapes = nn.unbox(boxed)
    if mesh is None:
        device = SingleDeviceSharding(jax.local_devices()[0])
        places = jax.tree.map(lambda _: device, shapes)
    else:
        places = tree_sharding(boxed, mesh, rules or ShardingRules())
    wanted = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        *(shapes, places),
    )
    empty = {name: {} for name in variables if name not in boxed}
    try:
        return ocp.load(str(directory.absolute()), wanted) | empty
    # Orbax and TensorStore raise what they like on files that are not whole.
    except Exception as error:
        raise RunError(
            f"the weights in {directory} cannot be read as those of its config.json "
            f"({type(error).__name__}); convert the model again."
        ) from error
