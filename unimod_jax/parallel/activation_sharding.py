"""Where activations are cut: constraints at the places where layers meet.

Parameters are placed once; activations follow from them as XLA sees fit, unless they
are told. Models name the logical axes of an array in a call of `constrain`, and the
mesh and the rules in context (`on_mesh`) say what that means. Without a mesh, or on a
single device, nothing is constrained and programs are as if the call were not there.
"""

import contextlib
import math
from collections.abc import Iterator

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from unimod_jax.parallel.sharding_rules import ShardingRules

type Axis = str | tuple[str, ...] | None
"""A field of `ShardingRules`; several that are merged, outermost first; None: whole."""

# Part of jax.jit's cache key, as the mesh is: other rules trace a function anew.
_rules = jax.make_user_context(ShardingRules())


@contextlib.contextmanager
def on_mesh(mesh: Mesh, rules: ShardingRules) -> Iterator[None]:
    """Traces and runs what is inside on a mesh, activations cut as the rules say.

    `jax.set_mesh` alone does the same with the default rules.
    """
    with jax.set_mesh(mesh), _rules(rules):
        yield


def automatic_axes() -> dict[str, int]:
    """The mesh axes over which XLA cuts arrays here, with more than one device.

    Those of a `jax.shard_map` around are not among them: there, an array is what one
    device has of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {
        name: size for name, size, kind in axes if size > 1 and kind != AxisType.Manual
    }


def cutting_axes(axis: Axis, length: int) -> tuple[str, ...]:
    """The mesh axes in context that cut a logical axis of this length.

    Args:
      axis: see `Axis`.
      length: of the array along it; if it does not divide evenly it stays whole.
    """
    sizes = automatic_axes()
    merged = () if axis is None else (axis,) if isinstance(axis, str) else axis
    names = tuple(
        name for one in merged for name in _rules.value.mesh_axes(one) if name in sizes
    )
    return () if length % math.prod(sizes[name] for name in names) else names


def num_parts(axis: Axis, length: int) -> int:
    """Into how many parts the mesh in context cuts an axis of this length; 1: whole."""
    sizes = automatic_axes()
    return math.prod(sizes[name] for name in cutting_axes(axis, length))


def constrain(x: jax.Array, *axes: Axis) -> jax.Array:
    """The same array, cut over the mesh in context as its logical axes say.

    Args:
      x: any array.
      *axes: a logical axis per axis of x; one that does not divide evenly is whole.

    Raises:
      ValueError: for an unknown axis, or another number of axes than x has.
    """
    if len(axes) != x.ndim:
        raise ValueError(
            f"an array of shape {x.shape} was given the axes {axes}; name each of its "
            f"{x.ndim} axes, or say None."
        )
    if not automatic_axes():
        return x
    cuts = [
        cutting_axes(axis, length) or None
        for axis, length in zip(axes, x.shape, strict=True)
    ]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*cuts))
