"""On a mesh every device attends alone, and nothing changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from pallas_kernels import routed_attention
from pallas_kernels.routed_attention.reference import reference
from pallas_kernels.routed_attention.sharded import HEAD_AXES, ROW_AXES, TOKEN_AXES
from pallas_kernels.routed_attention.xla_chunked import xla_chunked
from tests.kernels.attention_cases import (
    random_case,
    random_dropout,
    random_visibility,
    run,
)
from unimod_jax.parallel import ShardingRules


def mesh(**sizes):
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds)


def shapes_seen(case, kv_shapes=False):
    """The q (and k) shapes an implementation is called with, per device."""
    seen = []

    def record(*arrays, **options):
        seen.append(arrays[0].shape[::2][:2] + arrays[1].shape[2:3] * kv_shapes)
        return reference(*arrays, **options)

    arrays = tuple(jnp.asarray(x) for x in (*case[:3], *case.visibility))
    jax.jit(lambda *x: routed_attention(*x, scale=1.0, implementation=record))(*arrays)
    return seen


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 8},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"tensor": 4, "sequence": 2},
        {"data": 2, "sequence": 4},
        {"data": 4},
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_values_gradients_and_dropout_are_those_of_one_device(sizes, rate):
    visibility = random_visibility(0, 8, 12, 20)
    case = random_case(1, visibility, heads=4, kv_heads=2)
    dropout = random_dropout(2, visibility, rate) if rate else None
    wanted = run(case, "xla_chunked", dropout=dropout)
    with jax.set_mesh(mesh(**sizes)):
        actual = run(case, "xla_chunked", dropout=dropout)
    for one, other in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "rows_heads_and_kv_heads"),
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 1)),
        ({"data": 8}, (1, 4, 2)),
        # Two key/value heads are repeated for four devices.
        ({"data": 2, "tensor": 4}, (4, 1, 1)),
        # Eight devices do not divide four heads; devices share queries, not rows.
        ({"tensor": 8}, (8, 4, 2)),
        ({"fsdp": 4, "sequence": 2}, (2, 4, 2)),
    ],
)
def test_each_device_gets_its_share_of_rows_and_heads(sizes, rows_heads_and_kv_heads):
    case = random_case(3, random_visibility(4, 8, 6, 7), heads=4, kv_heads=2)
    with jax.set_mesh(mesh(**sizes)):
        assert shapes_seen(case, kv_shapes=True) == [rows_heads_and_kv_heads]


@pytest.mark.parametrize(
    ("queries", "keys", "queries_and_keys"),
    [(12, 20, (3, 20)), (12, 7, (3, 7)), (6, 20, (6, 20))],
)
def test_devices_along_a_sequence_share_queries_and_see_all_keys(
    queries, keys, queries_and_keys
):
    visibility = random_visibility(11, 2, queries, keys)
    case, seen = random_case(12, visibility), []
    dropout = random_dropout(13, visibility, 0.3)

    def record(*arrays, **options):
        seen.append((arrays[0].shape[1], arrays[1].shape[1]))
        return xla_chunked(*arrays, **options)

    wanted = run(case, "xla_chunked", dropout=dropout)
    with jax.set_mesh(mesh(data=2, sequence=4)):
        actual = run(case, record, dropout=dropout)
    assert set(seen) == {queries_and_keys}
    for one, other in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.0, atol=1e-5)


def test_keys_are_gathered_once_and_their_gradients_scattered():
    case = random_case(14, random_visibility(15, 2, 8, 8))
    tokens = jax.P(None, "sequence")
    with jax.set_mesh(mesh(sequence=4)):
        sharding = jax.NamedSharding(jax.sharding.get_mesh(), tokens)
        arrays = [jax.device_put(x, sharding) for x in (*case[:3], *case.visibility)]

        def gradients(q, k, v, *visibility):
            def loss(*qkv):
                return jnp.sum(
                    jnp.square(routed_attention(*qkv, *visibility, scale=1.0))
                )

            return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

        program = jax.jit(gradients, out_shardings=sharding).lower(*arrays)
        text = program.compile().as_text()
    assert "reduce-scatter" in text
    assert "all-reduce" not in text and "all-to-all" not in text
    assert "f32[2,8,2,8]" in text  # all keys of two heads of eight values


def test_rows_that_do_not_divide_are_computed_whole():
    case = random_case(5, random_visibility(6, 3, 6, 7))
    with jax.set_mesh(mesh(data=4)):
        assert shapes_seen(case) == [(3, 2)]


def test_inside_a_shard_map_arrays_are_left_as_they_are():
    case = random_case(7, random_visibility(8, 8, 6, 7))
    rows = jax.P("data")
    with jax.set_mesh(mesh(data=8)):
        seen = []

        def shard(*arrays):
            seen.append(arrays[0].shape)
            return routed_attention(*arrays, scale=case.scale)

        out = jax.jit(jax.shard_map(shard, in_specs=(rows,) * 6, out_specs=rows))(
            *(jnp.asarray(x) for x in (*case[:3], *case.visibility))
        )
    assert seen == [(1, 6, 2, 8)]
    wanted = run(case, "reference")[0]
    np.testing.assert_allclose(out, wanted, rtol=0.0, atol=1e-5)


def test_a_split_batch_needs_no_communication():
    case = random_case(9, random_visibility(10, 8, 6, 7), heads=4, kv_heads=4)
    with jax.set_mesh(mesh(data=4, tensor=2)):
        sharding = jax.NamedSharding(
            jax.sharding.get_mesh(), jax.P("data", None, "tensor")
        )
        arrays = [jax.device_put(x, sharding) for x in case[:3]]
        windows = [
            jax.device_put(x, jax.NamedSharding(sharding.mesh, jax.P("data")))
            for x in case.visibility
        ]

        def loss(q, k, v):
            out = routed_attention(
                q, k, v, *windows, scale=1.0, implementation="xla_chunked"
            )
            return jnp.sum(out * out)

        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        program = step.lower(*arrays).compile().as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in program, collective


def test_the_axes_are_those_of_the_sharding_rules():
    rules = dataclasses.asdict(ShardingRules())
    assert tuple(rules["batch"]) == ROW_AXES
    assert rules["token"] == TOKEN_AXES[0]
    assert rules["heads"] == HEAD_AXES[0]
