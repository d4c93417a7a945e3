"""Logical axis names, and the mesh axes they are laid over."""

import dataclasses
import typing
from collections.abc import Sequence

from jax.sharding import PartitionSpec

from unimod_jax.parallel.mesh import MeshAxis

MeshAxes = MeshAxis | tuple[MeshAxis, ...] | None
"""What an axis is cut over: one axis of the mesh, several together, or nothing."""

ARRAYS: dict[str, tuple[str, ...]] = {
    "hidden states": ("batch", "token"),
    "queries": ("batch", "token", "heads"),
    "keys and values": ("batch", "token", "kv_heads"),
    "feed-forward activations": ("batch", "token", "mlp"),
    "logits": ("batch", "token", "vocab"),
    "query and output projections": ("layers", "embed", "heads"),
    "key and value projections": ("layers", "embed", "kv_heads"),
    "feed-forward projections": ("layers", "expert", "embed", "mlp"),
    "table and head": ("vocab", "embed"),
    "position table": ("position", "embed"),
    "patch projections": ("patch", "embed"),
    "norms": ("layers", "norm"),
}
"""The axes that meet in one array; no two of them may share a mesh axis."""


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Which mesh axis each logical axis is cut over; None keeps it whole.

    Parameters name their axes when they are made; all towers of a component have the
    same names, so they are always cut alike, and optimizer slots are cut like their
    parameters. Activations name theirs where layers meet (`constrain`). Mesh axes of
    size 1 cut nothing, so the same rules serve every mesh.

    Attributes:
      batch: rows of a task group. Groups are cut separately, never concatenated.
      token: tokens of a stream, outside attention; where they do not divide evenly they
        stay whole. The width of hidden states is always whole: norms read all of it.
      heads: query heads: outputs of the query projection, inputs of the output one.
      kv_heads: outputs of the key and value projections. Where there are fewer heads
        than devices, attention repeats them.
      mlp: the hidden width of the feed-forward network, or of each expert.
      vocab: rows of the table, columns of the head, logits. Not every vocabulary
        divides: Emu3's 184,622 ids can be halved at most.
      embed: the model width of a weight; cut over fsdp, gathered when used.
      expert: the experts of a feed-forward tower, whole: each is cut as a plain one is.
      norm: a norm's scale, whole: it is small and used everywhere.
      position: raster positions of the image position table.
      patch: values of an image patch.
      layers: the stacked layers of a scanned run; whole, since a layer is used at once.
    """

    batch: MeshAxes = ("data", "fsdp")
    token: MeshAxes = "sequence"
    heads: MeshAxes = "tensor"
    kv_heads: MeshAxes = "tensor"
    mlp: MeshAxes = "tensor"
    vocab: MeshAxes = "tensor"
    embed: MeshAxes = "fsdp"
    expert: MeshAxes = None
    norm: MeshAxes = None
    position: MeshAxes = None
    patch: MeshAxes = None
    layers: MeshAxes = None

    def __post_init__(self) -> None:
        """Refuses mesh axes that do not exist, and cuts that collide in some array."""
        known = typing.get_args(MeshAxis)
        for field in dataclasses.fields(self):
            if unknown := [x for x in self.mesh_axes(field.name) if x not in known]:
                raise ValueError(
                    f"sharding.{field.name} names the mesh axes {unknown}, which do "
                    f"not exist; choose from {list(known)}, or None to keep it whole."
                )
        for name, axes in ARRAYS.items():
            self._check(axes, name)

    def spec(self, axes: Sequence[str | None]) -> PartitionSpec:
        """The partition of an array with these logical axes (None: keep whole).

        Raises:
          ValueError: for an unknown axis, or two axes cut over the same mesh axis.
        """
        cuts = [() if axis is None else self.mesh_axes(axis) for axis in axes]
        self._check(axes, "an array")
        return PartitionSpec(
            *(names if len(names) > 1 else next(iter(names), None) for names in cuts)
        )

    def mesh_axes(self, axis: str) -> tuple[MeshAxis, ...]:
        """The mesh axes that a logical axis is cut over, outermost first.

        Raises:
          ValueError: for an unknown axis.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if axis not in known:
            raise ValueError(
                f"logical axis {axis!r} has no sharding rule; known: {sorted(known)}."
            )
        cut: MeshAxes = getattr(self, axis)
        if cut is None:
            return ()
        return (cut,) if isinstance(cut, str) else tuple(cut)

    def _check(self, axes: Sequence[str | None], name: str) -> None:
        """Refuses an array of which one mesh axis would cut two axes."""
        cut_by: dict[str, str] = {}
        for axis in filter(None, axes):
            for mesh_axis in self.mesh_axes(axis):
                if mesh_axis in cut_by:
                    raise ValueError(
                        f"sharding.{cut_by[mesh_axis]} and sharding.{axis} would both "
                        f"cut {name} with axes {tuple(axes)} over mesh axis "
                        f"{mesh_axis!r}; change one of them, or set it to None."
                    )
                cut_by[mesh_axis] = axis
