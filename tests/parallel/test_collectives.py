"""Bytes that chips send each other, against programs whose bytes one can count."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding

from unimod_jax.parallel.collectives import collective_bytes

# What each of n devices sends of an array, in rings: see `collectives`.
ROWS, COLUMNS = 64, 32
WHOLE = ROWS * COLUMNS * 4
CUT, UNCUT = jax.P("x"), jax.P()


def mesh(**axes):
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes)
    )


def sent(function, mesh, spec=CUT, shape=(ROWS, COLUMNS), out=None):
    """The parser's account of a compiled function of one sharded array."""
    sharding = NamedSharding(mesh, spec)
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    out = None if out is None else NamedSharding(mesh, out)
    with jax.set_mesh(mesh):
        program = jax.jit(function, out_shardings=out).lower(x).compile().as_text()
    return collective_bytes(program, mesh.size)


def on_each(function, mesh, out=CUT, spec=CUT):
    return jax.shard_map(
        function, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False
    )


def test_gathering_sends_every_device_what_the_others_have():
    found = sent(lambda x: x, mesh(x=8), out=UNCUT)
    assert found == {"all-gather": WHOLE * 7 // 8}


def test_reducing_goes_round_twice():
    found = sent(lambda x: jnp.sum(x, axis=0), mesh(x=8), out=UNCUT)
    assert found == {"all-reduce": 2 * COLUMNS * 4 * 7 // 8}


def test_groups_of_a_mesh_axis_are_smaller_than_all_devices():
    two_axes = mesh(data=4, x=2)
    found = sent(lambda x: x, two_axes, out=UNCUT)
    assert found == {"all-gather": WHOLE * 1 // 2}


def test_scattering_counts_the_array_before_it_is_scattered():
    two_axes = mesh(data=2, x=4)
    scatter = functools.partial(jax.lax.psum_scatter, axis_name="x", tiled=True)
    found = sent(on_each(scatter, two_axes, spec=UNCUT), two_axes, UNCUT)
    assert found == {"reduce-scatter": WHOLE * 3 // 4}


def test_exchanging_keeps_one_share():
    swap = functools.partial(
        jax.lax.all_to_all, axis_name="x", split_axis=1, concat_axis=1, tiled=True
    )
    devices = mesh(x=8)
    assert sent(on_each(swap, devices), devices) == {"all-to-all": WHOLE // 8 * 7 // 8}


def test_a_neighbour_is_sent_a_devices_own_share():
    around = [(n, (n + 1) % 8) for n in range(8)]
    shift = functools.partial(jax.lax.ppermute, axis_name="x", perm=around)
    devices = mesh(x=8)
    assert sent(on_each(shift, devices), devices) == {"collective-permute": WHOLE // 8}


def repeated(function, times):
    def run(x):
        return jax.lax.scan(lambda x, _: (function(x), None), x, length=times)[0]

    return run


def reduce_sum(x):
    return jnp.sin(jax.lax.psum(x, "x"))


def test_loops_in_loops_multiply():
    devices = mesh(x=8)
    once = 2 * (WHOLE // 8) * 7 // 8
    loops = repeated(repeated(reduce_sum, 3), 5)
    assert sent(on_each(reduce_sum, devices), devices) == {"all-reduce": once}
    assert sent(on_each(loops, devices), devices) == {"all-reduce": 15 * once}


def test_a_loop_whose_bound_is_only_compared_with_counts_as_often_as_it_runs():
    program = """
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %sum = f32[8]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[8]) tuple(%i, %sum)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %bound = s32[] constant(7)
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%init), condition=%condition, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%w), index=1
}
"""
    # Two devices: 2 * 32 bytes * 1/2, seven times.
    assert collective_bytes(program, 4) == {"all-reduce": 7 * 32}


def test_of_the_branches_of_a_switch_the_mean_counts():
    devices = mesh(x=8)

    def some(x):
        total = jnp.sum(x).astype(jnp.int32) % 2
        return jax.lax.switch(total, [jnp.cos, reduce_sum], x)

    once = 2 * (WHOLE // 8) * 7 // 8
    assert sent(on_each(some, devices), devices) == {"all-reduce": once // 2}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # 1024 bytes are gathered from 256 by four; the start has both.
        (
            "(bf16[128]{0}, bf16[512]{0}) all-gather-start(%x), "
            "replica_groups=[2,4]<=[8], dimensions={0}",
            {"all-gather": 768},
        ),
        (
            "(f32[16]{0}, f32[16]{0}, u32[], u32[]) collective-permute-start(%x), "
            "source_target_pairs={{0,1},{1,0}}",
            {"collective-permute": 64},
        ),
        (
            "bf16[64]{0:T(256)(2,1)} all-reduce(%x), "
            "replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, to_apply=%add",
            {"all-reduce": 192},
        ),
        ("bf16[64]{0} all-gather-done(%started)", {}),
    ],
    ids=["gather", "permute", "named groups", "done"],
)
def test_forms_that_compilers_write(line, expected):
    program = f"ENTRY %main (x: f32[16]) -> f32[16] {{\n  ROOT %r = {line}\n}}\n"
    assert collective_bytes(program, 8) == expected
