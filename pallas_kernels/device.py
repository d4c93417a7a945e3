"""Which chip a computation is being traced for, present or not."""

from typing import NamedTuple

import jax


class Device(NamedTuple):
    """A platform ("cpu", "gpu" or "tpu") and JAX's name of the chip on it."""

    platform: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.platform})"


def current_device() -> Device:
    """Return the chip of the mesh in context, else of JAX's default device.

    A mesh of devices that exist only as a description, as in compiling for a chip that
    is not there, counts like any other.
    """
    described = jax.sharding.get_abstract_mesh().abstract_device
    if described is not None:
        # CUDA and ROCm are two names of one platform here.
        platform = described.platform or "tpu"
        platform = "gpu" if platform in ("cuda", "rocm") else platform
        return Device(platform, described.device_kind)
    default = jax.config.jax_default_device
    device = default if isinstance(default, jax.Device) else jax.devices()[0]
    return Device(device.platform, device.device_kind)
