"""Logical axis names, and the mesh axes they are laid over."""

import dataclasses
from collections.abc import Sequence

from jax.sharding import PartitionSpec

type MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Which mesh axis each logical axis is cut over; None keeps it whole.

    Parameters name their axes when they are made; all towers of a component have the
    same names, so they are always cut alike.

    Attributes:
      batch: rows of a task group. Groups are cut separately, never concatenated.
      embed: the model width of a weight; cut over fsdp, gathered when used.
      heads: outputs of the query projection, inputs of the output projection.
      kv_heads: outputs of the key and value projections.
      mlp: the hidden width of the feed-forward network.
      vocab: rows of the table, columns of the head.
      expert: the experts of a feed-forward tower, whole: each is cut as a plain one is.
      norm: a norm's scale, whole: it is small and used everywhere.
      position: raster positions of the image position table.
      patch: values of an image patch.
      layers: the stacked layers of a scanned run.
    """

    batch: MeshAxes = ("data", "fsdp")
    embed: MeshAxes = "fsdp"
    heads: MeshAxes = "tensor"
    kv_heads: MeshAxes = "tensor"
    mlp: MeshAxes = "tensor"
    vocab: MeshAxes = "tensor"
    expert: MeshAxes = None
    norm: MeshAxes = None
    position: MeshAxes = None
    patch: MeshAxes = None
    layers: MeshAxes = None

    def spec(self, axes: Sequence[str | None]) -> PartitionSpec:
        """The partition of an array with these logical axes (None: keep whole).

        Raises:
          ValueError: for an unknown axis, or two axes cut over the same mesh axis.
        """
        cuts: list[MeshAxes] = []
        used: set[str] = set()
        for axis in axes:
            cut = None if axis is None else self._cut(axis)
            names = (cut,) if isinstance(cut, str) else cut or ()
            if collision := used.intersection(names):
                raise ValueError(
                    f"an array with axes {tuple(axes)} would be cut twice over mesh "
                    f"axis {sorted(collision)}; change the rule of {axis!r}."
                )
            used.update(names)
            cuts.append(cut)
        return PartitionSpec(*cuts)

    def _cut(self, axis: str) -> MeshAxes:
        known = {field.name for field in dataclasses.fields(self)}
        if axis not in known:
            raise ValueError(
                f"logical axis {axis!r} has no sharding rule; known: {sorted(known)}."
            )
        return getattr(self, axis)
