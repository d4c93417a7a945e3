"""A layer that is computed again need not attend again: the result has a name."""

import functools

import jax
import numpy as np
import pytest

from pallas_kernels.routed_attention.mosaic_gpu import mosaic_gpu
from pallas_kernels.routed_attention.mosaic_tpu import mosaic_tpu
from pallas_kernels.routed_attention.saved_results import ATTENTION_RESULT
from pallas_kernels.routed_attention.triton import triton
from pallas_kernels.routed_attention.xla_chunked import xla_chunked
from tests.kernels.attention_cases import (
    random_case,
    random_visibility,
    run,
    unchanged,
    value_and_gradients,
)

keep_result = functools.partial(
    jax.checkpoint,
    policy=jax.checkpoint_policies.save_only_these_names(ATTENTION_RESULT),
)
IMPLEMENTATIONS = (
    xla_chunked,
    functools.partial(triton, interpret=True),
    functools.partial(mosaic_tpu, interpret=True),
    mosaic_gpu,  # traced for the chip: its interpreter has effects, which remat refuses
)
H200 = jax.sharding.AbstractDevice("NVIDIA H200", num_cores=None, platform="cuda")


def case():
    visibility = random_visibility(21, 1, 140, 150)
    return random_case(20, visibility, head_dim=64, dtype="bfloat16")


def results(implementation, transform):
    """How many results, named as such, the traced gradient computes."""
    *arrays, scale = case()
    differentiated = functools.partial(
        value_and_gradients,
        scale=scale,
        implementation=implementation,
        transform=transform,
    )
    program = str(jax.make_jaxpr(differentiated)(*arrays, None))
    return program.count(f"name={ATTENTION_RESULT}")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_result_kept_by_its_name_is_not_computed_again(implementation):
    chip = jax.sharding.AbstractMesh((), (), abstract_device=H200)
    with jax.sharding.use_abstract_mesh(chip):
        once = results(implementation, unchanged)
        assert results(implementation, keep_result) == once
        assert results(implementation, jax.checkpoint) > once


def test_keeping_the_result_changes_neither_values_nor_gradients():
    kept, plain = (run(case(), xla_chunked, t) for t in (keep_result, unchanged))
    for actual, wanted in zip(kept, plain, strict=True):
        np.testing.assert_array_equal(actual, wanted)
