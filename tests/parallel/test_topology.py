"""Names of chips that are not there, and a refusal in a sentence."""

import jax
import pytest

from unimod_jax.parallel import topology
from unimod_jax.parallel.chips import CHIPS
from unimod_jax.parallel.topology import TopologyError, describe


def test_cpus_are_devices_of_this_process():
    four = describe("cpu:4")
    assert list(four.devices) == jax.devices()[:4]
    assert four.num_chips == 4
    assert describe("cpu").num_chips == 1


def test_more_cpus_than_jax_has_started_with_are_refused():
    jax.devices()
    with pytest.raises(TopologyError, match="started with fewer than 512 CPU devices"):
        describe("cpu:512")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("v9:2x2", "there is no chip 'v9'; choose one of v4, v5e, v5p, .* size"),
        ("v5p:8x8", "'v5p:8x8' is not a number of v5p chips; write it as v5p:4x4x4"),
        ("v5e:0x4", "'v5e:0x4' is not a number of v5e chips; write it as v5e:4x4"),
        ("a100:2x4", "'a100:2x4' is not a number of a100 chips; write it as a100:4"),
        ("cpu:", "'cpu:' is not a number of cpu chips"),
    ],
)
def test_a_name_that_means_nothing_is_refused_in_a_sentence(name, sentence):
    with pytest.raises(TopologyError, match=sentence):
        describe(name)


@pytest.mark.parametrize(
    ("name", "package"), [("v5p:4x4x4", "libtpu"), ("h200", "jax_cuda13_plugin")]
)
def test_a_compiler_that_is_not_installed_is_named(monkeypatch, name, package):
    monkeypatch.setattr(topology, "_is_installed", lambda name: False)
    with pytest.raises(TopologyError, match=rf"{name} needs {package}.*pip install"):
        describe(name)


def test_every_gpu_has_a_description_for_the_compiler():
    for chip in CHIPS.values():
        file = topology._TARGETS / f"{chip.name}.txtpb"
        assert file.exists() == (chip.platform == "gpu")


def test_chips_say_what_their_makers_say():
    memory = {name: round(chip.hbm_bytes / 1e9) for name, chip in CHIPS.items()}
    assert memory == {
        "v4": 34,
        "v5e": 17,
        "v5p": 102,
        "v6e": 34,
        "tpu7x": 206,
        "a100": 43,
        "a100-80gb": 86,
        "h100": 86,
        "h200": 141,
        "cpu": 9,
    }


def test_a_gpu_keeps_a_reserve_and_half_a_chip_has_half_the_memory():
    device = jax.devices()[0]
    a100 = topology.Topology("a100:1", CHIPS["a100"], [device])
    assert a100.hbm_bytes_per_device == int(40 * 2**30 * 0.92)
    two = topology.Topology("tpu7x:1x1x1", CHIPS["tpu7x"], [device, device])
    assert two.num_chips == 1
    assert two.hbm_bytes_per_device == 96 * 2**30
