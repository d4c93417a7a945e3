"""Training steps at their published sizes, compiled for whole slices and hosts.

Quickly, for time (`Topology.compiler_options`). Show-o's understanding rows keep
another share of their tokens in each of twelve layers: minutes of compiling.
"""

import re

import pytest

from experiments.command_line import load_experiment
from experiments.compile_check.check import compile_check
from experiments.compile_check.plan import Freedom
from unimod_jax.models.accounting import parameters
from unimod_jax.parallel.topology import TopologyError, describe
from unimod_jax.training import Assembly

pytestmark = pytest.mark.compile

OPEN = Freedom(mesh=True, parts=True)
FITTING = {
    ("mot/chameleon_7b", "v5p:8x8x4"): 256,
    ("unimod/emu3", "v5p:4x4x4"): 64,
    ("unified/chameleon_7b", "v6e:16x16"): 256,
    ("unimod/show_o", "v5e:8x8"): 64,
    ("unimod/show_o", "h200"): 1,
    ("unimod/show_o", "a100:8"): 8,
}


@pytest.mark.parametrize(("name", "topology"), FITTING)
def test_a_published_step_fits(name, topology):
    experiment = load_experiment(name)
    report = compile_check(name, experiment, describe(topology), OPEN, quick=True)
    assert report.fits, report.verdict()
    assert report.num_chips == FITTING[name, topology]
    memory = report.bytes_per_chip
    assert memory["total"] <= report.usable_bytes_per_chip <= report.hbm_bytes_per_chip
    assembly = Assembly(experiment)
    total = 4 * parameters(assembly.spec, assembly.layouts).total
    fsdp, tensor = report.mesh["fsdp"], report.mesh["tensor"]
    # Norms are on every chip, and so are a vocabulary's shares that do not divide.
    assert total / (fsdp * tensor) <= memory["parameters"] <= 1.6 * total / fsdp
    sent = sum(report.collective_bytes_per_chip.values())
    assert sent > memory["parameters"] if report.num_chips > 1 else sent == 0
    assert 0 < report.roofline.utilisation < 0.76


def test_a_step_that_does_not_fit_says_so_with_the_bytes_it_needs():
    # 1.45B parameters, AdamW's two numbers and a gradient for each: 23 GB on one chip.
    name = "unimod/dense_show_o"
    report = compile_check(
        *(name, load_experiment(name), describe("v5e"), OPEN), quick=True
    )
    assert not report.fits
    assert report.remedy.option.endswith(" chips")
    found = re.search(
        r"a chip needs ([\d.]+) GB but can use 17.18 GB", report.verdict()
    )
    assert float(found[1]) > 23


def test_a_slice_of_thousands_of_chips_is_described():
    assert describe("v5p:16x16x16").num_chips == 4096
    assert describe("tpu7x:2x2x1").num_chips == 4
    assert len(describe("tpu7x:2x2x1").devices) == 8
    assert describe("h200:16").num_chips == 16


def test_a_slice_that_does_not_exist_is_refused_in_a_sentence():
    with pytest.raises(TopologyError, match="libtpu knows no slice 'v5e:3x7'"):
        describe("v5e:3x7")
