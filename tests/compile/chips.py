"""Compiles for chips that are not there, down to their machine code.

libtpu compiles for every TPU, and XLA with ptxas for every NVIDIA GPU, without a driver
or a device: `jax.experimental.topologies` describes the chip, and what is compiled for
its first device is what that chip would run. Tracing happens under an abstract mesh of
the chip, which is how Pallas and `current_device()` learn what they trace for.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

FOLDER = Path(__file__).parent
MIB = 2**20


class Chip(NamedTuple):
    """A chip to compile for.

    Attributes:
      name: how tests call it.
      platform: "tpu" or "gpu".
      kind: JAX's name of it.
      topology: of one chip: a TPU's slice, or the file that describes a GPU.
      scratch_bytes: the fast memory one kernel may use unless it asks for more. TPU:
        the compiler's limit on scoped VMEM (with as much again, or more, on request).
        GPU: the opt-in limit on shared memory per block, from the CUDA programming
        guide's table of compute capabilities 8.0 (163 KiB) and 9.0 (227 KiB).
      most_scratch_bytes: and with asking: a TensorCore's VMEM, from `jax`'s own table
        of TPUs (`pltpu.get_tpu_info`).
    """

    name: str
    platform: str
    kind: str
    topology: str
    scratch_bytes: int
    most_scratch_bytes: int


TPUS = (
    Chip("v4", "tpu", "TPU v4", "v4:1x1x1", 16 * MIB, 16 * MIB),
    Chip("v5e", "tpu", "TPU v5 lite", "v5e:1x1", 16 * MIB, 128 * MIB),
    Chip("v5p", "tpu", "TPU v5", "v5p:1x1x1", 16 * MIB, 64 * MIB),
    Chip("v6e", "tpu", "TPU v6 lite", "v6e:1x1", 32 * MIB, 128 * MIB),
    Chip("tpu7x", "tpu", "TPU7x", "tpu7x:1x1x1", 32 * MIB, 64 * MIB),
)
A100 = Chip("a100", "gpu", "NVIDIA A100-SXM4-40GB", "a100.txtpb", 166_912, 166_912)
H200 = Chip("h200", "gpu", "NVIDIA H200", "h200.txtpb", 232_448, 232_448)
GPUS = (A100, H200)
CHIPS = (*TPUS, *GPUS)

# A v4 and a v5p are two TensorCores that a program sees as one device ("megacore"), as
# on Cloud TPU; libtpu describes a v4 as two devices unless it is told.
_TPU_OPTIONS = {"v4": {"chip_config_name": "megacore"}}

_PACKAGES = ("libtpu", "jax_cuda13_plugin", "nvidia.cu13")


def missing_packages() -> list[str]:
    """The packages of requirements-compile.txt that cannot be imported."""
    return [name for name in _PACKAGES if not _is_installed(name)]


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
    device = _devices(chip)[0]
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
        return lowered.compile(compiler_options=_compiler_options(chip))


@functools.cache
def _devices(chip: Chip) -> list:
    if chip.platform == "gpu":
        description = (FOLDER / chip.topology).read_text(encoding="utf-8")
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=description,
            topology="1x1x1",
        )
        return topology.devices
    return tpu_devices(chip.topology, **_TPU_OPTIONS.get(chip.name, {}))


def tpu_devices(topology: str, **options: str) -> list:
    """The devices of a slice such as "v5e:2x2", to compile for."""
    # Test workers load libtpu side by side, and no cloud is asked which TPU this is.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=topology, **options
    )
    return described.devices


def _compiler_options(chip: Chip) -> dict[str, str | int]:
    """A GPU needs ptxas and libdevice, and there is nothing to time candidates on."""
    if chip.platform == "tpu":
        return {}
    (cuda,) = importlib.util.find_spec("nvidia.cu13").submodule_search_locations
    return {"xla_gpu_cuda_data_dir": cuda, "xla_gpu_autotune_level": 0}


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False
