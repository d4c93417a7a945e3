"""Meshes over the first devices, and a refusal where they cannot be made."""

import types

import jax
import pytest
from jax.sharding import AxisType

from unimod_jax.parallel import MeshConfig, make_mesh


def test_a_mesh_has_four_automatic_axes_over_the_first_devices():
    mesh = make_mesh(MeshConfig(data=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "sequence": 1, "tensor": 2}
    assert mesh.axis_types == (AxisType.Auto,) * 4
    assert set(mesh.devices.flat) == set(jax.devices()[:4])


def test_one_device_is_the_default():
    assert make_mesh(MeshConfig()).size == 1
    assert MeshConfig(2, 3, 4, 5).num_devices == 120


def test_neighbours_share_the_tensor_axis():
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    first, second = mesh.devices[0, 0, 0]
    assert [first.id, second.id] == [0, 1]


def test_one_axis_takes_the_devices_that_are_left():
    open_mesh = MeshConfig(data=-1, tensor=2)
    assert open_mesh.resolved(8) == MeshConfig(data=4, tensor=2)
    assert open_mesh.resolved(2) == MeshConfig(data=1, tensor=2)
    assert MeshConfig(fsdp=4).resolved(8) == MeshConfig(fsdp=4)
    assert make_mesh(open_mesh).shape["data"] == 4
    assert make_mesh(open_mesh, jax.devices()[:4]).shape["data"] == 2


def test_a_mesh_is_made_of_the_devices_that_are_given():
    last = jax.devices()[4:]
    assert set(make_mesh(MeshConfig(fsdp=4), last).devices.flat) == set(last)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: make_mesh(MeshConfig(fsdp=16)),
            r"'fsdp': 16.* needs 16 devices but there are 8; lower one",
        ),
        (lambda: MeshConfig(data=0), "mesh.data is 0; give a number of devices"),
        (lambda: MeshConfig(data=-1, fsdp=-1), "mesh.data and mesh.fsdp are all -1"),
        (
            lambda: MeshConfig(data=-1, tensor=3).resolved(8),
            "take 3 devices at a time, which do not divide the 8 there are",
        ),
        (lambda: MeshConfig(data=-1).num_devices, r"mesh.data is -1.*resolved\("),
    ],
)
def test_a_bad_mesh_is_refused_in_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_mesh_that_leaves_a_process_without_devices_is_refused():
    devices = [types.SimpleNamespace(process_index=n // 4) for n in range(8)]
    with pytest.raises(ValueError, match=r"leaves processes \[1\] without any"):
        make_mesh(MeshConfig(data=4), devices)
