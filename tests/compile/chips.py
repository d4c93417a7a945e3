"""Compiles kernels for one chip that is not there, down to its machine code.

Chips are those of `unimod_jax.parallel.topology`; what a kernel may use of them is
known here alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

from unimod_jax.parallel.topology import Topology, describe, missing_packages

MIB = 2**20


class Chip(NamedTuple):
    """A chip to compile for.

    Attributes:
      name: in `unimod_jax.parallel.chips`.
      kind: JAX's name of it.
      scratch_bytes: the fast memory one kernel may use unless it asks for more. TPU:
        the compiler's limit on scoped VMEM (with as much again, or more, on request).
        GPU: the opt-in limit on shared memory per block, from the CUDA programming
        guide's table of compute capabilities 8.0 (163 KiB) and 9.0 (227 KiB).
      most_scratch_bytes: and with asking: a TensorCore's VMEM, from `jax`'s own table
        of TPUs (`pltpu.get_tpu_info`).
    """

    name: str
    kind: str
    scratch_bytes: int
    most_scratch_bytes: int

    @property
    def topology(self) -> Topology:
        """One of it."""
        return describe(self.name)

    @property
    def platform(self) -> str:
        """Either "tpu" or "gpu"."""
        return self.topology.chip.platform


TPUS = (
    Chip("v4", "TPU v4", 16 * MIB, 16 * MIB),
    Chip("v5e", "TPU v5 lite", 16 * MIB, 128 * MIB),
    Chip("v5p", "TPU v5", 16 * MIB, 64 * MIB),
    Chip("v6e", "TPU v6 lite", 32 * MIB, 128 * MIB),
    Chip("tpu7x", "TPU7x", 32 * MIB, 64 * MIB),
)
A100 = Chip("a100", "NVIDIA A100-SXM4-40GB", 166_912, 166_912)
H200 = Chip("h200", "NVIDIA H200", 232_448, 232_448)
GPUS = (A100, H200)
CHIPS = (*TPUS, *GPUS)


def missing_compilers() -> list[str]:
    """The packages of requirements-compile.txt that cannot be imported."""
    return missing_packages("tpu") + missing_packages("gpu")


def compile_for(
    chip: Chip, function: Callable, *arguments: jax.ShapeDtypeStruct
) -> jax.stages.Compiled:
    """Compile `jax.jit(function)` for one device of a chip.

    Args:
      chip: one of `CHIPS`.
      function: of arrays.
      *arguments: what it is called with, without values.

    Raises:
      jax.errors.JaxRuntimeError: the chip cannot run it, as where a kernel needs more
        scratch memory than the chip has.
    """
    topology = chip.topology
    device = topology.devices[0]
    sharding = SingleDeviceSharding(device)
    arguments = tuple(
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in arguments
    )
    described = AbstractDevice(
        device_kind=device.device_kind,
        num_cores=getattr(device, "num_cores", None),
        platform="cuda" if chip.platform == "gpu" else chip.platform,
    )
    with jax.sharding.use_abstract_mesh(
        AbstractMesh((), (), abstract_device=described)
    ):
        lowered = jax.jit(function, out_shardings=sharding).lower(*arguments)
        return lowered.compile(compiler_options=topology.compiler_options())
