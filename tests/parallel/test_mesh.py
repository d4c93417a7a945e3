"""Meshes over the first devices, and a refusal where there are too few."""

import jax
import pytest
from jax.sharding import AxisType

from unimod_jax.parallel import MeshConfig, make_mesh


def test_a_mesh_has_three_automatic_axes_over_the_first_devices():
    mesh = make_mesh(MeshConfig(data=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 2}
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert set(mesh.devices.flat) == set(jax.devices()[:4])


def test_one_device_is_the_default():
    assert make_mesh(MeshConfig()).size == 1
    assert MeshConfig(2, 3, 4).num_devices == 24


def test_too_many_devices_are_refused_in_one_sentence():
    with pytest.raises(
        ValueError, match=r"'fsdp': 16.* needs 16 devices but there are"
    ):
        make_mesh(MeshConfig(fsdp=16))
