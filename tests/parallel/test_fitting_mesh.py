"""Which mesh is chosen for so many devices, rows, heads and parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from unimod_jax.parallel import MeshConfig, ShardingRules
from unimod_jax.parallel.fitting_mesh import fitting_mesh

RULES = ShardingRules()


def state(width=4096, heads=4096, hidden=16384, vocabulary=65536):
    """A tree of shapes like a model's."""

    def boxed(*axes):
        sizes = {"embed": width, "heads": heads, "mlp": hidden, "vocab": vocabulary}
        shape = tuple(sizes[axis] for axis in axes)
        return nn.Partitioned(jax.ShapeDtypeStruct(shape, jnp.float32), axes)

    return [boxed("embed", "heads"), boxed("embed", "mlp"), boxed("embed", "vocab")]


def test_rows_are_shared_first_and_parameters_with_them():
    found = fitting_mesh(256, [768], (32, 32), state(), RULES)
    assert found == (MeshConfig(fsdp=256), RULES)


def test_what_rows_cannot_use_splits_projections():
    # Emu3: 32 rows of each task on 64 chips.
    found = fitting_mesh(64, [32, 32], (32, 8), state(vocabulary=184_622), RULES)
    assert found == (MeshConfig(fsdp=32, tensor=2), RULES)


def test_a_vocabulary_that_does_not_divide_stays_whole():
    # Show-o: the common divisor of its rows is 48, of which 16 divide 64 chips.
    sizes = state(width=2048, heads=2048, hidden=8192, vocabulary=58_498)
    found = fitting_mesh(64, [240, 240, 96], (32, 32), sizes, RULES)
    assert found.mesh == MeshConfig(fsdp=16, tensor=4)
    assert found.rules == dataclasses.replace(RULES, vocab=None)


def test_a_width_that_does_not_divide_leaves_rows_to_copies():
    found = fitting_mesh(16, [64], (4, 4), state(width=24, heads=16), RULES)
    assert found.mesh == MeshConfig(data=2, fsdp=8)


def test_key_heads_may_be_repeated_but_query_heads_not():
    found = fitting_mesh(16, [2], (8, 2), state(), RULES)
    assert found.mesh == MeshConfig(fsdp=2, tensor=8)
    with pytest.raises(ValueError, match=r"common divisor: 2.*heads \(8, 2\)"):
        fitting_mesh(32, [2], (8, 2), state(), RULES)


def test_shares_stay_as_wide_as_registers_where_copies_can_take_the_rest():
    found = fitting_mesh(
        *(256, [768], (32, 32), state(), RULES), width=4096, least_share=128
    )
    assert found.mesh == MeshConfig(data=8, fsdp=32)
