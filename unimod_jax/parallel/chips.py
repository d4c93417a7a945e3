"""The chips that training is planned for, and what their makers say they can do.

TPU figures are those of Google Cloud's pages ("TPU v4", "TPU v5e", "TPU v5p", "TPU
v6e", and "TPU7x", which prints v5p, v6e and itself side by side), GPU figures those of
NVIDIA's data sheets of the SXM modules, all dense bfloat16. Links are full duplex and
their makers add up both directions; here a bandwidth is what a chip can send, half of
that.
"""

import dataclasses
from typing import Literal

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip, as it is bought.

    Attributes:
      name: as in a topology, such as "v5p".
      platform: which compiler it needs.
      hbm_bytes: memory of a chip.
      peak_flops_per_second: dense bfloat16.
      hbm_bytes_per_second: memory bandwidth.
      interconnect_bytes_per_second: what a chip sends over all its links to chips of
        its slice (TPU) or of its host (GPU: NVLink).
      network_bytes_per_second: what a GPU sends to another host.
      chips_per_host: of GPUs, how many NVLink joins.
      devices_per_chip: what JAX calls a device may be half a chip.
      reserved_share: of the memory, kept free of what the compiler plans. A TPU's
        compiler keeps its own reserve and refuses what does not fit; on a GPU the CUDA
        context, NCCL's buffers and fragmentation take a few per cent that nothing
        counts beforehand.
      dimensions: of a TPU slice's torus.
    """

    name: str
    platform: Literal["tpu", "gpu", "cpu"]
    hbm_bytes: int
    peak_flops_per_second: float
    hbm_bytes_per_second: float
    interconnect_bytes_per_second: float
    network_bytes_per_second: float = 0.0
    chips_per_host: int = 8
    devices_per_chip: int = 1
    reserved_share: float = 0.0
    dimensions: int = 0

    def link_bytes_per_second(self, num_chips: int) -> float:
        """What one of so many chips can send: GPUs of several hosts use the network."""
        if self.network_bytes_per_second and num_chips > self.chips_per_host:
            return self.network_bytes_per_second
        return self.interconnect_bytes_per_second


_GPU_RESERVE = 0.08
"""With it, XLA_PYTHON_CLIENT_MEM_FRACTION=.92 is the setting to train with."""

_TPUS = (
    # "TPU v4": 275 TFLOPs, 32 GiB at 1,228 GB/s; six links of 50 GB/s each way
    # (2304.01433, table 4).
    Chip("v4", "tpu", 32 * GIB, 275e12, 1228e9, 300e9, dimensions=3),
    # "TPU v5e": 197 TFLOPs, 16 GB at 819 GB/s, 400 GB/s both ways.
    Chip("v5e", "tpu", 16 * GIB, 197e12, 819e9, 200e9, dimensions=2),
    # "TPU7x": 459 TFLOPs, 95 GiB at 2,765 GB/s, 1,200 GB/s both ways.
    Chip("v5p", "tpu", 95 * GIB, 459e12, 2765e9, 600e9, dimensions=3),
    # "TPU7x": 918 TFLOPs, 32 GiB at 1,638 GB/s, 800 GB/s both ways.
    Chip("v6e", "tpu", 32 * GIB, 918e12, 1638e9, 400e9, dimensions=2),
    # "TPU7x": 2,307 TFLOPs, 192 GiB at 7,380 GB/s, 1,200 GB/s both ways, as two
    # devices of a program.
    Chip(
        *("tpu7x", "tpu", 192 * GIB, 2307e12, 7380e9, 600e9),
        devices_per_chip=2,
        dimensions=3,
    ),
)

_GPUS = (
    # "NVIDIA A100 Tensor Core GPU" (2021): 312 TFLOPs; 40 GB at 1,555 GB/s, 80 GB at
    # 2,039 GB/s; NVLink 600 GB/s both ways. DGX A100: a 200 Gb/s adapter for each GPU.
    Chip("a100", "gpu", 40 * GIB, 312e12, 1555e9, 300e9, 25e9),
    Chip("a100-80gb", "gpu", 80 * GIB, 312e12, 2039e9, 300e9, 25e9),
    # "NVIDIA H100 Tensor Core GPU" (2023): 989 TFLOPs, 80 GB at 3.35 TB/s; NVLink 900
    # GB/s both ways. DGX H100: a 400 Gb/s adapter for each GPU.
    Chip("h100", "gpu", 80 * GIB, 989e12, 3350e9, 450e9, 50e9),
    # "NVIDIA H200 Tensor Core GPU" (2024): 141 GB at 4.8 TB/s, the rest as the H100.
    Chip("h200", "gpu", 141 * 10**9, 989e12, 4800e9, 450e9, 50e9),
)

_CPU = Chip("cpu", "cpu", 8 * GIB, 1e11, 2e10, 1e10)
"""A stand-in to try things on: round figures of one laptop core, measured nowhere."""

CHIPS = {
    chip.name: chip
    for chip in (
        *_TPUS,
        *(dataclasses.replace(gpu, reserved_share=_GPU_RESERVE) for gpu in _GPUS),
        _CPU,
    )
}
"""Name -> chip."""
