"""The device mesh: four axes, each a way of sharing the work; one device by default.

Neighbouring devices get the last axis, `tensor`, which talks most; `data` is outermost.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

MeshAxis = Literal["data", "fsdp", "sequence", "tensor"]
"""The names of a mesh's axes, in this order."""

REST = -1
"""Devices along an axis: all that the other axes leave."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; their product is the number of devices.

    One axis may be -1, "all devices that are left", so that the same options run on
    any number of devices.

    Attributes:
      data: copies of the model, each with its own rows. Devices exchange gradients once
        a step, so this axis may cross slow links (hosts, slices). Choose it when the
        model and its optimizer fit on one device, or on what the other axes share.
      fsdp: devices that share the rows *and* the parameters: each keeps a part of every
        parameter and of its optimizer slots, and gathers a layer when it is used.
        Choose it first when the model does not fit; it asks for as many rows as devices
        and for fast links.
      sequence: devices that share the tokens of each row. Outside attention a device
        has its own tokens; inside, its own queries and all keys. Choose it when rows
        are so long, or so few, that rows alone cannot be shared out.
      tensor: devices that share every projection: heads, hidden widths, vocabulary.
        Each layer sums what they say twice in each direction, so keep it within a host.
        Choose it when a single layer of a single row is too large or too slow.
    """

    data: int = 1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        """Checks that axes are whole numbers, and that one at most is open."""
        for name, size in dataclasses.asdict(self).items():
            if size != REST and size < 1:
                raise ValueError(
                    f"mesh.{name} is {size}; give a number of devices, at least 1, or "
                    f"-1 for all devices that the other axes leave."
                )
        if len(open_axes := self._open_axes) > 1:
            raise ValueError(
                f"mesh.{' and mesh.'.join(open_axes)} are all -1, but only one axis "
                "can take the devices that are left; give the others a number."
            )

    @property
    def num_devices(self) -> int:
        """Devices the mesh needs.

        Raises:
          ValueError: if an axis is -1, see `resolved`.
        """
        if open_axes := self._open_axes:
            raise ValueError(
                f"mesh.{open_axes[0]} is -1, so the mesh takes as many devices as "
                "there are; say how many with resolved(num_devices)."
            )
        return math.prod(dataclasses.astuple(self))

    def resolved(self, num_devices: int) -> "MeshConfig":
        """The same mesh with a number in place of -1.

        Args:
          num_devices: how many there are.

        Raises:
          ValueError: if the other axes do not divide them.
        """
        open_axes = self._open_axes
        if not open_axes:
            return self
        others = -math.prod(dataclasses.astuple(self))
        if num_devices % others:
            raise ValueError(
                f"mesh.{open_axes[0]} is -1, but the other axes of {self.sizes} take "
                f"{others} devices at a time, which do not divide the {num_devices} "
                "there are; change one of them."
            )
        return dataclasses.replace(self, **{open_axes[0]: num_devices // others})

    @property
    def sizes(self) -> dict[str, int]:
        """Axis -> devices along it, in the order of the mesh."""
        return dataclasses.asdict(self)

    @property
    def _open_axes(self) -> tuple[str, ...]:
        return tuple(name for name, size in self.sizes.items() if size == REST)


# Any: type checkers do not take jax.Device, a name that its module assigns, for a type.
def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over the first devices that it needs.

    Args:
      config: devices along each axis.
      devices: to choose from, as those of a described topology; None takes
        `jax.devices()`, all devices of all processes.

    Raises:
      ValueError: if there are too few devices, or the mesh leaves a process without
        any.
    """
    devices = jax.devices() if devices is None else list(devices)
    config = config.resolved(len(devices))
    if config.num_devices > len(devices):
        raise ValueError(
            f"the mesh {config.sizes} needs {config.num_devices} devices but there are "
            f"{len(devices)}; lower one of its axes."
        )
    chosen = devices[: config.num_devices]
    if idle := _processes(devices) - _processes(chosen):
        raise ValueError(
            f"the mesh {config.sizes} takes {config.num_devices} of {len(devices)} "
            f"devices and leaves processes {sorted(idle)} without any; let one axis be "
            "-1, or start fewer processes."
        )
    # Along the links of a TPU slice; an axis may be part of one of its dimensions.
    arranged = mesh_utils.create_device_mesh(
        tuple(config.sizes.values()), chosen, allow_split_physical_axes=True
    )
    return Mesh(
        arranged, tuple(config.sizes), axis_types=(AxisType.Auto,) * len(config.sizes)
    )


def _processes(devices: Sequence[Any]) -> set[int]:
    return {device.process_index for device in devices}
