"""Routed attention on a mesh: rows, heads and queries are split.

A token sees keys of its own row only, and a head is its own softmax, so devices that
share rows and heads attend alone. Devices that share the tokens of a row have their own
queries and gather the keys of all. XLA cannot know that of a kernel; `jax.shard_map`
says it.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from pallas_kernels.routed_attention.dropout import AttentionDropout

# The mesh axes that split rows, tokens and heads, where a mesh has them.
ROW_AXES = ("data", "fsdp")
TOKEN_AXES = ("sequence",)
HEAD_AXES = ("tensor",)


def per_shard(
    attend: Callable[..., jax.Array], arrays: tuple[jax.Array, ...], options: dict
) -> jax.Array:
    """Call an implementation on every device's rows, queries and heads.

    Rows are split over the axes "data" and "fsdp" of the mesh in context
    (`jax.set_mesh`), queries over "sequence", heads over "tensor", if their sizes
    divide B, T, and H and G. With fewer key/value heads than devices along "tensor",
    each is repeated for the devices that share it. Keys arrive split over "sequence"
    if it divides S, and are gathered there: their gradients return as parts of a sum,
    which are scattered as they are added. What does not divide is computed whole on
    every device, as is everything along other axes. Without a mesh, or inside a
    `jax.shard_map`, where arrays are a device's own already, this is a plain call.

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
    query_axes = _dividing(TOKEN_AXES, sizes, q.shape[1])
    key_axes = _dividing(TOKEN_AXES, sizes, k.shape[1])
    head_axes, repeats = _head_split(sizes, q.shape[2], k.shape[2])
    if repeats > 1:
        k, v = (jnp.repeat(x, repeats, axis=2) for x in (k, v))
    query_heads = jax.P(row_axes or None, query_axes or None, head_axes or None)
    key_heads = jax.P(row_axes or None, key_axes or None, head_axes or None)
    queries, keys = (jax.P(*heads[:2]) for heads in (query_heads, key_heads))

    def attend_shard(q, k, v, start, end, position, dropout):
        k, v, position = (_gathered(x, key_axes) for x in (k, v, position))
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
        in_specs=(
            *(query_heads, key_heads, key_heads, queries, queries, keys),
            _dropout_specs(dropout, queries),
        ),
        out_specs=query_heads,
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
    present = tuple(name for name in names if sizes.get(name, 1) > 1)
    return () if length % math.prod(sizes[name] for name in present) else present


def _head_split(
    sizes: dict[str, int], num_heads: int, num_kv_heads: int
) -> tuple[tuple[str, ...], int]:
    """Return the axes that split heads, and how often each key/value head is repeated.

    No axes where key/value heads and devices do not divide each other.
    """
    axes = _dividing(HEAD_AXES, sizes, num_heads)
    num_shards = math.prod(sizes[name] for name in axes)
    if num_kv_heads % num_shards == 0:
        return axes, 1
    return (
        (axes, num_shards // num_kv_heads)
        if num_shards % num_kv_heads == 0
        else ((), 1)
    )


def _gathered(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Return the tokens that devices along some axes have, in their order."""
    return jax.lax.all_gather(x, axes, axis=1, tiled=True) if axes else x


def _first(axes: tuple[str, ...], per_device: int) -> jax.Array:
    """Return the index, along a split array axis, of a device's first entry."""
    shard = jax.lax.axis_index(axes) if axes else jnp.int32(0)
    return shard * per_device


def _dropout_specs(dropout: AttentionDropout | None, queries: jax.P):
    if dropout is None:
        return None
    whole = jax.tree.map(lambda _: jax.P(), dropout)
    return dataclasses.replace(whole, query_position=queries)
