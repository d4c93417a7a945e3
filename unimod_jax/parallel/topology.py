"""Chips that are not there: what a slice or a host of GPUs looks like to the compiler.

libtpu compiles for every TPU, and XLA with ptxas for every NVIDIA GPU, without a driver
or a device: `jax.experimental.topologies` describes the chips, and what is compiled for
them is what they would run. A program that is traced under a mesh of described devices
(`jax.set_mesh`) is traced for their chip: `pallas_kernels.device.current_device` says
so, which is how attention takes that chip's kernel.
"""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from unimod_jax.parallel.chips import CHIPS, Chip

_TARGETS = Path(__file__).parent / "gpu_targets"

# A v4 is two TensorCores that a program sees as one device ("megacore"), as on Cloud
# TPU; libtpu describes it as two devices unless it is told.
_TPU_OPTIONS = {"v4": {"chip_config_name": "megacore"}}

_PACKAGES = {
    "tpu": ("libtpu",),
    "gpu": ("jax_cuda13_plugin", "nvidia.cu13"),
    "cpu": (),
}


class TopologyError(ValueError):
    """A topology that does not exist, or that nothing here can compile for."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Described chips.

    Attributes:
      name: as given, such as "v5p:4x4x4".
      chip: what they are.
      devices: of all chips, to make a mesh of; nothing can run on them.
    """

    name: str
    chip: Chip
    devices: Sequence[Any]

    @property
    def num_chips(self) -> int:
        """How many chips; a device may be half of one."""
        return len(self.devices) // self.chip.devices_per_chip

    @property
    def hbm_bytes_per_device(self) -> int:
        """Memory that a program may plan with: all but the chip's reserve."""
        usable = self.chip.hbm_bytes * (1.0 - self.chip.reserved_share)
        return int(usable) // self.chip.devices_per_chip

    def compiler_options(self, *, quick: bool = False) -> dict[str, str | int | bool]:
        """What a program for these chips is compiled with.

        A GPU needs ptxas and libdevice, and there is nothing to time candidates on.

        Args:
          quick: sooner, for a question about memory. A TPU's program is compiled with
            XLA's least effort, in about half of the time: it fuses less, and its memory
            was within 2% of full effort where both were compiled (Chameleon 7B). A
            GPU's products stay with cuBLAS, and its fusions are judged without
            propagating tiles: two thirds of the time, and 1% less memory (Show-o with
            UniMoD on eight A100s).

        Returns:
          Options of `jax.stages.Lowered.compile`.
        """
        options: dict[str, str | int | bool] = {}
        if quick and self.chip.platform == "tpu":
            options["xla_optimization_level"] = "EFFORT_O0"
        if quick and self.chip.platform == "gpu":
            options["xla_gpu_enable_triton_gemm"] = False
            options["xla_gpu_experimental_enable_tiling_propagation"] = False
        if self.chip.platform == "gpu":
            found = importlib.util.find_spec("nvidia.cu13")
            assert found is not None and found.submodule_search_locations is not None
            (cuda,) = found.submodule_search_locations
            options |= {"xla_gpu_cuda_data_dir": cuda, "xla_gpu_autotune_level": 0}
        return options


def describe(name: str) -> Topology:
    """The topology of a name.

    Args:
      name: chip and number of chips: a TPU slice such as "v5e:8x8" or "v5p:4x4x4",
        "a100:8", "cpu:4"; the chip alone is one of it. GPUs beyond 8 are hosts of 8.

    Raises:
      TopologyError: for a name that means nothing, chips that libtpu does not know in
        that shape, or a compiler that is not installed.
    """
    chip_name, colon, size = name.partition(":")
    if chip_name not in CHIPS:
        raise TopologyError(
            f"there is no chip {chip_name!r}; choose one of {', '.join(CHIPS)}, with a "
            f"size, as in v5e:4x4, v5p:4x4x4 or a100:8."
        )
    chip = CHIPS[chip_name]
    shape = _shape(name, chip, size) if colon else (1,) * max(chip.dimensions, 1)
    if missing := missing_packages(chip.platform):
        raise TopologyError(
            f"compiling for {name} needs {' and '.join(missing)}, which this "
            f"environment does not have; run `pip install -r requirements-compile.txt`."
        )
    return Topology(name, chip, _devices(chip, shape))


def missing_packages(platform: str) -> list[str]:
    """What is not installed of the compilers of a platform."""
    return [name for name in _PACKAGES[platform] if not _is_installed(name)]


def _shape(name: str, chip: Chip, size: str) -> tuple[int, ...]:
    """The chips along each dimension; GPUs and CPUs have one."""
    dimensions = max(chip.dimensions, 1)
    parts = size.split("x")
    whole = all(part.isdecimal() and int(part) > 0 for part in parts)
    if len(parts) != dimensions or not whole:
        example = "x".join(("4",) * dimensions)
        raise TopologyError(
            f"{name!r} is not a number of {chip.name} chips; write it as "
            f"{chip.name}:{example}."
        )
    return tuple(map(int, parts))


@functools.cache
def _devices(chip: Chip, shape: tuple[int, ...]) -> Sequence[Any]:
    if chip.platform == "tpu":
        return _tpu_devices(chip, "x".join(map(str, shape)))
    (count,) = shape
    if chip.platform == "gpu":
        return _gpu_devices(chip, count)
    return _cpu_devices(count)


def _tpu_devices(chip: Chip, shape: str) -> Sequence[Any]:
    # Several processes may load libtpu side by side, and no cloud is asked which TPU
    # this is.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    name = f"{chip.name}:{shape}"
    options: dict[str, Any] = _TPU_OPTIONS.get(chip.name, {})
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        )
    except jax.errors.JaxRuntimeError as error:
        first_line = str(error).splitlines()[0]
        raise TopologyError(
            f"libtpu knows no slice {name!r} ({first_line}); choose a shape that "
            f"Google Cloud offers."
        ) from error
    return described.devices


def _gpu_devices(chip: Chip, count: int) -> Sequence[Any]:
    if count > chip.chips_per_host and count % chip.chips_per_host:
        raise TopologyError(
            f"{chip.name}:{count} is more than one host of {chip.chips_per_host} but "
            f"not a whole number of them; take a multiple of {chip.chips_per_host}."
        )
    per_host = min(count, chip.chips_per_host)
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=(_TARGETS / f"{chip.name}.txtpb").read_text(encoding="utf-8"),
        topology=f"1x{count // per_host}x{per_host}",
    )
    return described.devices


def _cpu_devices(count: int) -> Sequence[Any]:
    """Devices of this process, which are real: JAX is asked for as many in time."""
    if jax.config.jax_num_cpu_devices < count:
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError as error:
            raise TopologyError(
                f"JAX has started with fewer than {count} CPU devices; describe "
                f"cpu:{count} before anything else runs."
            ) from error
    return jax.devices("cpu")[:count]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False
