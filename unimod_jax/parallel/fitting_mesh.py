"""A mesh for so many chips, where the user names none.

Rows are what chips share most cheaply, so as many devices as possible get rows of their
own, and of those as many as possible share the parameters too (fsdp): a gathered layer
is small beside the rows' activations, and no memory goes into copies. What rows cannot
use splits every projection (tensor), where heads, hidden width and vocabulary divide; a
vocabulary that does not is kept whole.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.sharding import AbstractMesh

from unimod_jax.parallel.mesh import MeshConfig
from unimod_jax.parallel.sharding_rules import ShardingRules
from unimod_jax.parallel.state_sharding import tree_sharding

TPU_LANES = 128
"""Values side by side in a TPU's registers, of its two-dimensional tiles."""


class FittingMesh(NamedTuple):
    """A mesh, and the sharding rules that its sizes ask for."""

    mesh: MeshConfig
    rules: ShardingRules


def fitting_mesh(
    num_devices: int,
    rows: Sequence[int],
    heads: Sequence[int],
    state: Any,
    rules: ShardingRules,
    *,
    width: int = 0,
    least_share: int = 0,
) -> FittingMesh:
    """The mesh with the most row shards, and among equals with the most fsdp.

    Args:
      num_devices: all of them are used.
      rows: of each task, all at once or of one part of an accumulated step; each is
        divided by data x fsdp.
      heads: H and G: tensor divides both, or is a multiple of G.
      state: abstract, in boxes with logical axes (`training.sharded_step`): what does
        not divide over a mesh rules it out.
      rules: the experiment's; with `vocab=None` where only the vocabulary is in the
        way.
      width: D, which fsdp cuts.
      least_share: of the width that a device should have; where fsdp would leave less,
        copies (data) take the rest. A TPU's registers are `TPU_LANES` wide, and where
        shares are narrower its compiler makes an all-reduce of each gather, which sends
        twice as much (libtpu 0.0.50, seen with 16 of 4,096 values on 256 chips).

    Raises:
      ValueError: if no mesh of so many devices divides rows and parameters.
    """
    common = math.gcd(*rows)
    most_fsdp = width // least_share if least_share else num_devices
    for mesh in _candidates(num_devices, common, max(most_fsdp, 1)):
        if not _splits_heads(mesh.tensor, heads):
            continue
        for allowed in (rules, dataclasses.replace(rules, vocab=None)):
            if _divides(state, mesh, allowed):
                return FittingMesh(mesh, allowed)
    raise ValueError(
        f"no mesh of {num_devices} devices divides the rows of the tasks (their common "
        f"divisor: {common}) and the heads {tuple(heads)}; change data.batch_size, or "
        f"take a number of chips that divides them."
    )


def _candidates(num_devices: int, common: int, most_fsdp: int) -> Iterator[MeshConfig]:
    """Every data x fsdp x tensor of all devices, the preferred ones first."""
    sharing_rows = [n for n in _divisors(num_devices) if common % n == 0]
    for with_rows in reversed(sharing_rows):
        sizes = _divisors(with_rows)
        for fsdp in sorted(sizes, key=lambda n: (n <= most_fsdp, n), reverse=True):
            yield MeshConfig(
                data=with_rows // fsdp, fsdp=fsdp, tensor=num_devices // with_rows
            )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _splits_heads(tensor: int, heads: Sequence[int]) -> bool:
    num_heads, num_kv_heads = heads
    shares_keys = num_kv_heads % tensor == 0 or tensor % num_kv_heads == 0
    return num_heads % tensor == 0 and shares_keys


def _divides(state: Any, mesh: MeshConfig, rules: ShardingRules) -> bool:
    axes = dataclasses.asdict(mesh)
    try:
        # Sizes are all that is asked of the mesh; there are no devices yet.
        sizes: Any = AbstractMesh(tuple(axes.values()), tuple(axes))
        tree_sharding(state, sizes, rules)
    except ValueError:
        return False
    return True
