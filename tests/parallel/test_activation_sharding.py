"""Constraints on activations: what they cut, and where they are not there at all."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from unimod_jax.parallel import (
    MeshConfig,
    ShardingRules,
    constrain,
    make_mesh,
    num_parts,
    on_mesh,
)


def cut(x, *axes, rules=None, **sizes):
    """The partition of a constrained array."""
    with on_mesh(make_mesh(MeshConfig(**sizes)), rules or ShardingRules()):
        return jax.jit(lambda x: constrain(x, *axes))(x).sharding.spec


def test_rows_and_tokens_are_cut_and_the_width_is_whole():
    hidden = jnp.zeros((4, 6, 8))
    axes = ("batch", "token", None)
    spec = cut(hidden, *axes, data=2, fsdp=2, sequence=2)
    assert spec == PartitionSpec(("data", "fsdp"), "sequence")
    assert cut(hidden, *axes, fsdp=4, tensor=2) == PartitionSpec("fsdp")


def test_what_does_not_divide_is_whole():
    spec = cut(jnp.zeros((4, 7, 8)), "batch", "token", None, data=2, sequence=4)
    assert spec == PartitionSpec("data")


def test_merged_axes_are_cut_over_all_that_cut_them():
    spec = cut(jnp.zeros((24, 8)), ("batch", "token"), None, data=2, sequence=4)
    assert spec == PartitionSpec(("data", "sequence"))


def test_other_rules_trace_a_function_anew():
    mesh, whole = make_mesh(MeshConfig(sequence=8)), ShardingRules(token=None)
    parts = jax.jit(lambda x: num_parts("token", len(x)) * jnp.ones_like(x))
    with on_mesh(mesh, ShardingRules()):
        assert parts(jnp.zeros(8))[0] == 8
    with on_mesh(mesh, whole):
        assert parts(jnp.zeros(8))[0] == 1
    with jax.set_mesh(mesh):
        assert parts(jnp.zeros(8))[0] == 8
    assert parts(jnp.zeros(8))[0] == 1


@pytest.mark.parametrize("on_one_device", [False, True])
def test_without_devices_to_share_with_nothing_is_constrained(on_one_device):
    def program(x):
        return constrain(x, "batch", "token", None)

    x = jnp.zeros((4, 6, 8))
    if not on_one_device:
        assert not jax.make_jaxpr(program)(x).eqns
        return
    with jax.set_mesh(make_mesh(MeshConfig())):
        assert not jax.make_jaxpr(program)(x).eqns


def test_inside_a_shard_map_arrays_are_one_devices_own():
    mesh = make_mesh(MeshConfig(data=2, tensor=2))
    seen = []

    def shard(x):
        seen.append((num_parts("batch", 4), num_parts("heads", 4)))
        return constrain(x, "batch", "heads")

    def program(x):
        return jax.shard_map(
            shard,
            in_specs=jax.P(None, "tensor"),
            out_specs=jax.P(None, "tensor"),
            axis_names={"tensor"},
        )(x)

    with jax.set_mesh(mesh):
        assert jax.jit(program)(jnp.zeros((4, 4))).sharding.spec[0] == "data"
    assert set(seen) == {(2, 1)}


def test_each_axis_of_an_array_has_to_be_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) was given the axes \('batch'"):
        constrain(jnp.zeros((2, 3)), "batch")
