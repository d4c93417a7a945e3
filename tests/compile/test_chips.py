"""What compiling without hardware can tell: which chip it is, what it cannot run."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu, tpu, triton

from pallas_kernels.device import Device, current_device
from tests.compile.chips import A100, CHIPS, H200, MIB, TPUS, compile_for

pytestmark = pytest.mark.compile


def name(chip):
    return chip.name


def zeros(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("chip", CHIPS, ids=name)
def test_a_program_knows_the_chip_it_is_traced_for(chip):
    seen = []

    def program(x):
        seen.append(current_device())
        return x

    compile_for(chip, program, zeros(8))
    assert seen == [Device(chip.platform, chip.kind)]


def test_afterwards_the_machine_is_itself_again():
    compile_for(H200, jnp.negative, zeros(8))
    assert current_device().platform == "cpu"


def doubling_kernel(num_bytes, vmem_limit=None):
    """A TPU kernel whose four buffers (two in, two out) have that many bytes."""
    rows = num_bytes // 4 // 512  # of 128 float32

    def kernel(x_ref, out_ref):
        out_ref[...] = 2 * x_ref[...]

    block = pl.BlockSpec((rows, 128), lambda i: (i, 0))
    return pl.pallas_call(
        kernel,
        grid=(4,),
        in_specs=[block],
        out_specs=block,
        out_shape=zeros(4 * rows, 128),
        compiler_params=tpu.CompilerParams(vmem_limit_bytes=vmem_limit),
    ), zeros(4 * rows, 128)


@pytest.mark.parametrize("chip", TPUS, ids=name)
def test_a_tpu_refuses_more_vmem_than_a_kernel_may_use(chip):
    compile_for(chip, *doubling_kernel(chip.scratch_bytes * 7 // 8))
    with pytest.raises(jax.errors.JaxRuntimeError, match="memory space vmem"):
        compile_for(chip, *doubling_kernel(chip.scratch_bytes * 9 // 8))


@pytest.mark.parametrize("chip", TPUS, ids=name)
def test_a_tpu_refuses_more_vmem_than_it_has_to_who_asks_for_it(chip):
    most = chip.most_scratch_bytes
    compile_for(chip, *doubling_kernel(most * 7 // 8, vmem_limit=most))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"vmem|exceed memory"):
        compile_for(chip, *doubling_kernel(most * 9 // 8, vmem_limit=2 * most))


@pytest.mark.parametrize("chip", TPUS, ids=name)
def test_the_vmem_of_a_chip_is_the_one_in_jaxs_table(chip):
    found = []

    def program(x):
        found.append(tpu.get_tpu_info().vmem_capacity_bytes)
        return x

    compile_for(chip, program, zeros(8))
    assert found == [chip.most_scratch_bytes]


def dot_kernel(num_bytes):
    """A Triton kernel with both bfloat16 factors of a product in shared memory."""
    inner = 512
    columns = num_bytes // 2 // inner - 128

    def kernel(a_ref, b_ref, out_ref):
        out_ref[...] = jnp.dot(
            a_ref[...], b_ref[...], preferred_element_type=jnp.float32
        )

    a, b = (
        zeros(*shape, dtype=jnp.bfloat16) for shape in ((128, inner), (inner, columns))
    )
    out = zeros(128, columns)
    params = triton.CompilerParams()
    return pl.pallas_call(kernel, out_shape=out, compiler_params=params), a, b


def test_an_a100_refuses_the_shared_memory_that_only_an_h200_has():
    num_bytes = 192 * 1024
    assert A100.scratch_bytes < num_bytes < H200.scratch_bytes
    compile_for(H200, *dot_kernel(num_bytes))
    with pytest.raises(
        jax.errors.JaxRuntimeError,
        match=rf"requested {num_bytes}, available: {A100.scratch_bytes}",
    ):
        compile_for(A100, *dot_kernel(num_bytes))


def zeroing_kernel(num_bytes):
    """A Mosaic GPU kernel with that much shared memory."""

    def kernel(out_ref, scratch_ref):
        scratch_ref[...] = jnp.zeros_like(scratch_ref)
        mosaic_gpu.copy_smem_to_gmem(scratch_ref.at[:1], out_ref)
        mosaic_gpu.wait_smem_to_gmem(0)

    scratch = mosaic_gpu.SMEM((num_bytes // 512, 128), jnp.float32)
    return mosaic_gpu.kernel(kernel, out_type=zeros(1, 128), scratch_types=[scratch])


def test_an_h200_refuses_more_shared_memory_than_it_has():
    compile_for(H200, zeroing_kernel(H200.scratch_bytes))
    with pytest.raises(ValueError, match=rf"max_smem_bytes={H200.scratch_bytes}"):
        compile_for(H200, zeroing_kernel(H200.scratch_bytes + 512))


@pytest.mark.parametrize(("chip", "target"), [(A100, b"sm_80"), (H200, b"sm_90a")])
def test_a_gpu_program_ends_as_machine_code_of_its_architecture(chip, target):
    program = compile_for(chip, *dot_kernel(160 * 1024)).runtime_executable()
    written = program.serialize()
    assert b"\x7fELF" in written
    assert re.search(rb"sm_\d+a?", written).group() == target


@pytest.mark.parametrize("chip", TPUS, ids=name)
def test_a_tpu_program_ends_as_machine_code(chip):
    program = compile_for(chip, *doubling_kernel(MIB))
    assert program.memory_analysis().generated_code_size_in_bytes > 0
