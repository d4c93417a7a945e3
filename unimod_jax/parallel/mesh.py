"""The device mesh: data, fsdp and tensor axes; one device by default."""

import dataclasses
import math

import jax
from jax.sharding import AxisType, Mesh


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis.

    Attributes:
      data: copies of the model, each with its own rows.
      fsdp: devices that share the rows *and* the parameters, which are gathered when
        used.
      tensor: devices that share each projection's outputs.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def num_devices(self) -> int:
        """Devices the mesh needs."""
        return math.prod(dataclasses.astuple(self))


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over the first devices that it needs.

    Raises:
      ValueError: if there are too few devices.
    """
    devices = jax.devices()
    if config.num_devices > len(devices):
        raise ValueError(
            f"the mesh {dataclasses.asdict(config)} needs {config.num_devices} devices "
            f"but there are {len(devices)}; lower one of its axes."
        )
    return jax.make_mesh(
        dataclasses.astuple(config),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
        devices=devices[: config.num_devices],
    )
