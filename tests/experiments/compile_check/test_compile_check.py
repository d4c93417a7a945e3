"""The command on CPU devices, whose program XLA compiles in seconds."""

import dataclasses
import json

import jax
import pytest

from experiments.command_line import load_experiment
from experiments.compile_check.__main__ import main
from experiments.compile_check.check import compile_check, refused_bytes
from experiments.compile_check.plan import Freedom, plan
from unimod_jax.models import MixtureOfDepths
from unimod_jax.models.accounting import parameters, training_flops
from unimod_jax.parallel import MeshConfig
from unimod_jax.parallel.chips import CHIPS
from unimod_jax.parallel.topology import describe
from unimod_jax.training import Assembly, Experiment, reduced_twin

OPEN = Freedom(mesh=True, parts=True)


def tiny() -> Experiment:
    """One dense layer; 16, 16 and 4 rows of three tasks."""
    experiment = reduced_twin(load_experiment("toy/demo"), width=16, num_layers=1)
    data = dataclasses.replace(experiment.data, batch_size=36)
    return dataclasses.replace(experiment, data=data, mod=MixtureOfDepths())


def small_cpu(num_devices: int, hbm_bytes: int):
    """CPUs with little memory."""
    topology = describe(f"cpu:{num_devices}")
    chip = dataclasses.replace(topology.chip, hbm_bytes=hbm_bytes)
    return dataclasses.replace(topology, chip=chip)


@pytest.fixture(scope="module")
def on_one_device():
    return compile_check("tiny", tiny(), describe("cpu:1"), OPEN)


def test_the_command_prints_one_json_object_for_the_demo(capsys):
    assert main(["toy/demo", "--topology", "cpu:4", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assembly = Assembly(load_experiment("toy/demo"))
    assert found["topology"] == "cpu:4"
    assert found["num_chips"] == 4
    assert found["fits"] is True
    assert found["mesh"]["fsdp"] == 4
    assert "--mesh.fsdp 4" in found["options"]
    memory = found["bytes_per_chip"]
    assert set(memory) == {"parameters", "optimizer", "batch", "activations", "total"}
    assert memory["total"] == sum(memory.values()) - memory["total"]
    assert memory["total"] < found["hbm_bytes_per_chip"]
    useful = training_flops(assembly.spec, assembly.layouts, assembly.rows)
    assert found["flops_per_chip"] == pytest.approx(useful / 4)
    assert all(size > 0 for size in found["collective_bytes_per_chip"].values())
    assert {"all-gather", "all-reduce"} <= set(found["collective_bytes_per_chip"])
    assert found["roofline_step_seconds"] > 0


def test_parameters_are_exact(on_one_device):
    assembly = Assembly(tiny())
    total = parameters(assembly.spec, assembly.layouts).total
    assert on_one_device.bytes_per_chip["parameters"] == 4 * total
    # AdamW keeps two numbers for each, and two counters for each of its two parts.
    state = on_one_device.bytes_per_chip["optimizer"]
    assert 8 * total <= state <= 8 * total + 32


def test_shards_share_the_parameters_but_not_the_norms():
    assembly = Assembly(tiny())
    on_four = plan(tiny(), describe("cpu:4"), OPEN)
    whole = plan(tiny(), describe("cpu:1"), OPEN)
    boxes = jax.tree.leaves(
        on_four.state.params, is_leaf=lambda leaf: hasattr(leaf, "names")
    )
    replicated = 4 * sum(box.value.size for box in boxes if "embed" not in box.names)
    total = 4 * parameters(assembly.spec, assembly.layouts).total
    assert whole.bytes_of_arguments()["parameters"] == total
    cut = on_four.bytes_of_arguments()["parameters"]
    assert cut == replicated + (total - replicated) // 4


def test_one_device_sends_nothing(on_one_device):
    assert on_one_device.collective_bytes_per_chip == {}
    assert on_one_device.roofline.collective_seconds == 0


def test_what_the_user_names_is_kept():
    experiment = dataclasses.replace(tiny(), mesh=MeshConfig(data=2))
    chosen = plan(experiment, describe("cpu:4"), Freedom(mesh=False, parts=False))
    assert chosen.experiment == experiment
    assert chosen.options == ()
    assert chosen.mesh.size == 2


def test_more_parts_are_taken_where_memory_is_short(on_one_device):
    memory = on_one_device.bytes_per_chip
    little = memory["total"] - memory["activations"] // 4
    report = compile_check("tiny", tiny(), small_cpu(1, little), OPEN)
    assert report.fits
    assert report.accumulation_steps > 1
    steps = f"--training.accumulation_steps {report.accumulation_steps}"
    assert steps in report.options
    assert steps in "\n".join(report.table())


def test_what_does_not_fit_says_so_and_names_what_would(on_one_device):
    memory = on_one_device.bytes_per_chip
    little = memory["total"] - memory["activations"] // 4
    fixed = Freedom(mesh=True, parts=False)
    report = compile_check("tiny", tiny(), small_cpu(1, little), fixed)
    assert not report.fits
    assert report.bytes_per_chip["total"] == memory["total"]
    assert report.remedy.option.startswith("--training.accumulation_steps ")
    assert report.remedy.is_compiled
    assert report.remedy.bytes_needed <= little
    sentence = report.verdict()
    assert sentence.startswith("tiny does not fit on cpu:1: a chip needs ")
    assert sentence.count(". ") == 0
    assert "(compiled)." in sentence


def test_a_state_that_is_too_large_needs_more_chips(on_one_device):
    memory = on_one_device.bytes_per_chip
    little = (memory["parameters"] + memory["optimizer"]) // 2
    chosen = Freedom(mesh=True, parts=False)
    report = compile_check("tiny", tiny(), small_cpu(1, little), chosen)
    assert not report.fits
    assert report.remedy.option.endswith(" chips")
    assert not report.remedy.is_compiled


def test_the_exit_status_says_whether_it_fits(capsys, monkeypatch):
    monkeypatch.setitem(
        CHIPS, "cpu", dataclasses.replace(CHIPS["cpu"], hbm_bytes=1_000)
    )
    small = ["--model.width", "16", "--model.num-layers", "1", "--model.head-dim", "4"]
    command = ["toy/digits_next_token", "--tiny", "--topology", "cpu:1", *small]
    assert main([*command, "--training.accumulation-steps", "1"]) == 3
    assert "does not fit on cpu:1: a chip needs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["toy/demo"], "no --topology is given"),
        (["toy/demo", "--topology", "v5z:4"], "there is no chip 'v5z'"),
        (["toy/nothing", "--topology", "cpu:1"], "there is no experiment"),
        (
            ["toy/demo", "--topology", "cpu:4", "--mesh.fsdp", "8"],
            "needs 8 devices but there are 4",
        ),
        (
            ["toy/demo", "--topology", "cpu:8", "--mesh.fsdp", "8"],
            "12 rows of text_only a step cannot be taken",
        ),
    ],
)
def test_a_wrong_command_ends_with_one_sentence(capsys, options, sentence):
    with pytest.raises(SystemExit) as stopped:
        main(options)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_refusal_of_a_tpus_compiler_names_the_bytes():
    everything = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
        "memory space hbm. Used 23.50G of 15.75G hbm. Exceeded hbm capacity by 7.75G."
    )
    temporaries = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the "
        "total memory required for HLO temporaries (30.75G) exceeds available HBM "
        "(15.75G). HLO module: jit_step."
    )
    assert refused_bytes(everything, 5) == 23.5 * 2**30
    assert refused_bytes(temporaries, 5) == 30.75 * 2**30 + 5
    assert refused_bytes("RESOURCE_EXHAUSTED: memory space vmem", 5) is None
    assert refused_bytes("INTERNAL: Used 1.00G of 2.00G hbm", 5) is None
