"""Routed attention on a mesh: rows and heads are split, every device attends alone.

A token sees keys of its own row only, and a head is its own softmax, so no device needs
another's keys. XLA cannot know that of a kernel; `jax.shard_map` says it.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from pallas_kernels.routed_attention.dropout import AttentionDropout

# The mesh axes that split rows and heads, where a mesh has them.
ROW_AXES = ("data", "fsdp")
HEAD_AXES = ("tensor",)


def per_shard(
    attend: Callable[..., jax.Array], arrays: tuple[jax.Array, ...], options: dict
) -> jax.Array:
    """Call an implementation on every device's rows and heads.

    Rows are split over the axes "data" and "fsdp" of the mesh in context
    (`jax.set_mesh`), heads over "tensor", if their sizes divide B, and H and G. With
    fewer key/value heads than devices along "tensor", each is repeated for the devices
    that share it. What does not divide is computed whole on every device, as is
    everything along other axes. Without a mesh, or inside a `jax.shard_map`, where
    arrays are a device's own already, this is a plain call.

    Args:
      attend: an implementation of `routed_attention`.
      arrays: q, k, v, window_start, window_end, key_position.
      options: scale and dropout.

    Returns:
      `[B, T, H, E]`.
    """
    sizes = _axes_to_split()
    if math.prod(sizes.values()) == 1:
        return attend(*arrays, **options)
    q, k, v, start, end, position = arrays
    row_axes = _dividing(ROW_AXES, sizes, q.shape[0])
    head_axes = _dividing(HEAD_AXES, sizes, q.shape[2])
    num_shards = math.prod(sizes[name] for name in head_axes)
    if k.shape[2] % num_shards:
        if num_shards % k.shape[2]:
            head_axes, num_shards = (), 1
        else:
            repeats = num_shards // k.shape[2]
            k, v = (jnp.repeat(x, repeats, axis=2) for x in (k, v))
    rows = jax.P(row_axes or None)
    heads = jax.P(row_axes or None, None, head_axes or None)

    def attend_shard(q, k, v, start, end, position, dropout):
        if dropout is not None:
            dropout = dataclasses.replace(
                dropout,
                first_row=dropout.first_row + _first(row_axes, q.shape[0]),
                first_head=dropout.first_head + _first(head_axes, q.shape[2]),
            )
        return attend(
            *(q, k, v, start, end, position), scale=options["scale"], dropout=dropout
        )

    dropout = options["dropout"]
    return jax.shard_map(
        attend_shard,
        in_specs=(heads, heads, heads, rows, rows, rows, _dropout_specs(dropout, rows)),
        out_specs=heads,
        axis_names=set(sizes),
        check_vma=False,  # a Pallas kernel does not say over which axes it varies
    )(q, k, v, start, end, position, dropout)


def _axes_to_split() -> dict[str, int]:
    """Return the sizes of the mesh axes that no `jax.shard_map` around has split."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {name: size for name, size, kind in axes if kind != AxisType.Manual}


def _dividing(
    names: tuple[str, ...], sizes: dict[str, int], length: int
) -> tuple[str, ...]:
    """Return the axes of a mesh that together split a length evenly, or none."""
    present = tuple(name for name in names if name in sizes)
    return () if length % math.prod(sizes[name] for name in present) else present


def _first(axes: tuple[str, ...], per_device: int) -> jax.Array:
    """Return the index, along a split array axis, of a device's first entry."""
    shard = jax.lax.axis_index(axes) if axes else jnp.int32(0)
    return shard * per_device


def _dropout_specs(dropout: AttentionDropout | None, rows: jax.P):
    if dropout is None:
        return None
    whole = jax.tree.map(lambda _: jax.P(), dropout)
    return dataclasses.replace(whole, query_position=rows)
