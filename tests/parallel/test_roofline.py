"""The arithmetic of the estimate, in round numbers."""

import pytest

from unimod_jax.parallel.chips import Chip
from unimod_jax.parallel.roofline import ChipWork, Roofline

CHIP = Chip("round", "gpu", 10**9, 1e12, 1e9, 1e8, network_bytes_per_second=1e7)
WORK = ChipWork(
    useful_flops=3e11,
    executed_flops=4e11,
    hbm_bytes=2e8,
    collective_bytes=1e7,
    tokens=100,
)


def test_a_step_takes_as_long_as_its_slowest_resource():
    line = Roofline(WORK, CHIP, num_chips=8)
    assert line.compute_seconds == pytest.approx(0.4)
    assert line.hbm_seconds == pytest.approx(0.2)
    assert line.collective_seconds == pytest.approx(0.1)
    assert line.step_seconds == pytest.approx(0.4)
    assert line.slowest == "compute"


def test_only_useful_flops_count_as_utilisation():
    line = Roofline(WORK, CHIP, num_chips=8)
    assert line.utilisation == pytest.approx(0.75)
    assert line.tokens_per_second_per_chip == pytest.approx(250)


def test_gpus_of_several_hosts_share_a_slower_network():
    line = Roofline(WORK, CHIP, num_chips=16)
    assert line.collective_seconds == pytest.approx(1.0)
    assert line.slowest == "collectives"
    assert line.utilisation == pytest.approx(0.3)
