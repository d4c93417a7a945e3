"""What PyTorch is given, how the two processes take turns, and what is refused.

No test needs PyTorch: a few lines of Python stand in for its process.
"""

import dataclasses
import itertools
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import linen as nn

from experiments.benchmark.peer_export import (
    NO_TARGET,
    peer_config,
    torch_batch,
    torch_parameters,
    write_peer,
)
from experiments.benchmark.peer_models import SIZES, SYSTEMS, peer_experiment
from experiments.benchmark.peer_process import PeerError, PeerProcess, PeerRefusal
from experiments.benchmark.peers import (
    StepSeen,
    check_agreement,
    measure,
    peers_suite,
)
from experiments.benchmark.random_rows import random_batch
from experiments.benchmark.suite import Setting
from unimod_jax.layout import Document, lay_out
from unimod_jax.models import UnifiedModel
from unimod_jax.training import Assembly
from unimod_jax.training.prepared_step import CompiledStep

SETTING = Setting("cpu", seconds=0.0, quick=True, say=lambda line: None)


def assembly_of(system):
    return Assembly(peer_experiment(system, SIZES["quick"]))


def batch_of(assembly):
    return random_batch(assembly)


def numbered_parameters(assembly):
    """The model's parameter tree, in which no two values are equal."""
    shapes = jax.eval_shape(
        UnifiedModel(assembly.spec).init, jax.random.key(0), batch_of(assembly)
    )
    number = itertools.count()

    def fill(leaf):
        start = next(number) * 2**17
        return (start + np.arange(leaf.size, dtype=np.float32)).reshape(leaf.shape)

    return jax.tree.map(fill, nn.unbox(shapes)["params"])


# --- Parameters -----------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_value_arrives_once(system):
    assembly = assembly_of(system)
    params = numbered_parameters(assembly)
    theirs = torch_parameters(params, assembly.spec)
    values = [
        np.sort(np.concatenate([np.ravel(x) for x in tree]))
        for tree in (jax.tree.leaves(params), list(theirs.values()))
    ]
    np.testing.assert_array_equal(*values)


BLOCK = (
    *("attention_norm.weight", "query_key_value.weight", "output.weight"),
    *("query_norm.weight", "query_norm.bias", "key_norm.weight", "key_norm.bias"),
    *("feed_forward_norm.weight", "gate_up.weight", "down.weight"),
)


@pytest.mark.parametrize(
    ("system", "towers", "routers"),
    [
        ("dense", ["shared"], []),
        ("mot", ["text", "image"], []),
        ("mod", ["shared"], ["layers.1.router"]),
    ],
)
def test_names_are_those_of_the_torch_model(system, towers, routers):
    assembly = assembly_of(system)
    names = torch_parameters(numbered_parameters(assembly), assembly.spec).keys()
    blocks = {
        f"layers.{layer}.block.towers.{tower}.{name}"
        for layer in (0, 1)
        for tower in towers
        for name in BLOCK
    }
    final = {f"final_norm.{tower}.weight" for tower in towers}
    assert names == {"embedding.weight", "head.weight", *blocks, *final, *routers}


def test_projections_stand_side_by_side_and_are_transposed():
    assembly = assembly_of("mot")
    params = numbered_parameters(assembly)
    theirs = torch_parameters(params, assembly.spec)
    block = params["transformer"]["run_0"]["block"]
    expected = [
        block[name]["image"]["kernel"][1].T for name in ("query", "key", "value")
    ]
    prefix = "layers.1.block.towers.image"
    np.testing.assert_array_equal(
        theirs[f"{prefix}.query_key_value.weight"], np.concatenate(expected)
    )
    gate, up = (
        block["feed_forward"]["image"][x]["kernel"][1].T for x in ("gate", "up")
    )
    np.testing.assert_array_equal(
        theirs[f"{prefix}.gate_up.weight"], np.concatenate([gate, up])
    )


@pytest.mark.parametrize("place", ["vocabulary_head", "run"])
def test_parameters_without_a_place_are_refused(place):
    assembly = assembly_of("dense")
    params = numbered_parameters(assembly)
    holder = {
        "vocabulary_head": params["vocabulary_head"],
        "run": params["transformer"]["run_0"]["block"]["output"]["shared"],
    }[place]
    holder["bias"] = np.zeros((2, 32), np.float32)
    with pytest.raises(ValueError, match=r"no place for the parameters.*bias"):
        torch_parameters(params, assembly.spec)


# --- Rows -----------------------------------------------------------------------------


def test_rows_are_in_sequence_order_however_they_are_stored():
    stored_together, stored_apart = (
        torch_batch(batch_of(assembly_of(system))["text_to_image"])
        for system in ("dense", "mot")
    )
    assert stored_together.keys() == {"token_BT", "target_BT", "modality_BT"}
    for name, array in stored_together.items():
        np.testing.assert_array_equal(array, stored_apart[name], name)


def test_each_token_predicts_the_next_and_the_last_nothing():
    rows = torch_batch(batch_of(assembly_of("mot"))["text_to_image"])
    token_BT, target_BT = rows["token_BT"], rows["target_BT"]
    assert token_BT.shape == (2, 32)
    np.testing.assert_array_equal(target_BT[:, :-1], token_BT[:, 1:])
    assert (target_BT[:, -1] == NO_TARGET).all()
    text, image = [0] * 15, [1] * 16
    np.testing.assert_array_equal(rows["modality_BT"], [[*text, *image, 0]] * 2)


def test_rows_with_empty_slots_are_refused():
    layout = assembly_of("dense").layouts["text_to_image"]
    row = lay_out(Document({"begin": [1], "image": [40] * 16}), layout)
    group = jax.tree.map(lambda x: x[None], row)
    with pytest.raises(ValueError, match="full causal rows"):
        torch_batch(group)


def test_both_sides_keep_equally_many_tokens():
    config = peer_config(assembly_of("mod"))
    assert config["routed_layers"] == [1]
    assert config["num_kept"] == 7  # of 32 tokens, a fifth, rounded up
    assert config["towers"] == ["shared", "shared"]
    assert peer_config(assembly_of("mot"))["towers"] == ["text", "image"]


def test_the_folder_holds_all_that_the_process_reads(tmp_path):
    assembly = assembly_of("mod")
    prepared = SimpleNamespace(
        assembly=assembly,
        state=SimpleNamespace(params=numbered_parameters(assembly)),
        batch=batch_of(assembly),
    )
    write_peer(tmp_path, prepared, "cpu")
    setup = json.loads((tmp_path / "setup.json").read_text())
    assert setup["device"] == "cpu"
    assert setup["threads"] == len(os.sched_getaffinity(0))
    assert setup["recipe"] == {
        "learning_rate": 1e-4,
        "beta1": 0.9,
        "beta2": 0.95,
        "epsilon": 1e-5,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
    }
    assert {path.stem for path in (tmp_path / "parameters").iterdir()} == set(
        torch_parameters(prepared.state.params, assembly.spec)
    )
    assert len(list((tmp_path / "batch").iterdir())) == 3


# --- Taking turns ---------------------------------------------------------------------

STAND_IN = """
import json, sys, time
ways, diary = json.loads(sys.argv[1]), sys.argv[2]
loss_off, dies_at = map(float, sys.argv[3:])
def note(event):
    with open(diary, "a") as file:
        file.write(event + "\\n")
print(json.dumps({"ways": list(ways), "torch_version": "0"}), flush=True)
steps = 0
for line in sys.stdin:
    way = json.loads(line)["take"]
    if ways[way] is None:
        print(json.dumps({"error": "no compiler"}), flush=True)
        continue
    if steps == dies_at:
        sys.exit("out of memory")
    note("theirs begins")
    steps += 1
    time.sleep(0.005)
    note("theirs ends")
    answer = {"seconds": ways[way], "loss": 8 - steps + loss_off, "gradient_norm": 2.0}
    print(json.dumps(answer), flush=True)
"""


class OurStandIn:
    """What `measure` asks of a prepared step; its loss falls by one each step."""

    assembly = assembly_of("dense")
    compiled = CompiledStep(None, 0.5, 0.5, 0, 1, 1)

    def __init__(self, diary: Path) -> None:
        self.diary, self.steps = diary, 0

    def start(self) -> dict[str, float]:
        with self.diary.open("a") as file:
            file.write("ours begins\nours ends\n")
        self.steps += 1
        self.metrics = {"loss": 8.0 - self.steps, "gradient_norm": 2.0}
        return self.metrics


@pytest.fixture
def measured(tmp_path):
    """Runs `measure` with two stand-ins; returns (record, diary of events)."""

    def run(ways, loss_off=0.0, dies_at=-1):
        diary, script = tmp_path / "diary", tmp_path / "stand_in.py"
        script.write_text(STAND_IN)
        arguments = (json.dumps(ways), str(diary), str(loss_off), str(dies_at))
        command = [sys.executable, str(script), *arguments]
        with PeerProcess(command, tmp_path / "log", {}) as peer:
            record = measure("dense", OurStandIn(diary), peer, SETTING)
        return record, diary.read_text().splitlines()

    return run


def test_one_waits_while_the_other_steps(measured):
    record, diary = measured({"eager": 1.0})
    for begin, end in itertools.batched(diary, 2):
        assert end == begin.replace("begins", "ends")
    assert record["rounds"] == 5
    timed = diary[-20:]
    assert timed == [*["ours begins", "ours ends", "theirs begins", "theirs ends"] * 5]
    assert record["step_ratio"] == record["step_seconds"] / record["peer_step_seconds"]
    assert record["peer_step_seconds"] >= 0.005


def test_the_fastest_way_of_pytorch_is_what_is_timed(measured):
    record, _ = measured({"boolean": 3.0, "eager": 1.0, "compiled": 2.0})
    assert record["peer_way"] == "eager"
    assert record["peer_compiled_seconds"] == 2.0
    assert record["largest_difference"] == 0.0


def test_a_way_that_does_not_work_is_recorded_and_left_out(measured):
    record, _ = measured({"eager": 1.0, "compiled": None})
    assert record["peer_way"] == "eager"
    assert record["peer_compiled_failure"] == "no compiler"
    assert "peer_compiled_seconds" not in record


def test_without_any_way_there_is_no_ratio(measured):
    with pytest.raises(PeerError, match=r"takes no step of dense here.*no compiler"):
        measured({"eager": None})


def test_models_that_disagree_are_not_timed(measured):
    with pytest.raises(ValueError, match=r"dense \(eager\): JAX and PyTorch differ by"):
        measured({"eager": 1.0}, loss_off=0.001)


@pytest.mark.parametrize("dies_at", [0, 4])
def test_a_peer_that_dies_says_what_it_last_wrote(measured, dies_at):
    with pytest.raises(PeerError, match="status 1 and last wrote 'out of memory'"):
        measured({"eager": 1.0}, dies_at=dies_at)


def test_a_peer_that_never_starts_is_an_error(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such module')"]
    with pytest.raises(PeerError, match="last wrote 'no such module'"):
        PeerProcess(command, tmp_path / "log", {})


def test_a_refusal_leaves_the_peer_running(tmp_path):
    echo = "import sys\nprint('{}', flush=True)\n"
    echo += "for line in sys.stdin: print(line, end='', flush=True)"
    with PeerProcess([sys.executable, "-c", echo], tmp_path / "log", {}) as peer:
        with pytest.raises(PeerRefusal, match="too large"):
            peer.ask({"error": "too large"})
        assert peer.ask({"take": "eager"}) == {"take": "eager"}


# --- Agreement, and what there is to compare with -------------------------------------


def test_agreement_is_the_largest_relative_difference():
    ours = [StepSeen(2.0, 10.0), StepSeen(1.0, 8.0)]
    theirs = [StepSeen(2.0, 10.001), StepSeen(1.0, 8.0)]
    largest = check_agreement("dense", ours, theirs, 1e-3)
    np.testing.assert_allclose(largest, 0.001 / 10.001, rtol=1e-6)
    with pytest.raises(ValueError, match=r"differ by 1\.0e-04"):
        check_agreement("dense", ours, theirs, 5e-5)


def test_a_loss_that_is_no_number_is_no_agreement():
    nothing = [StepSeen(1.0, float("nan"))]
    with pytest.raises(ValueError, match="differ by nan"):
        check_agreement("dense", nothing, nothing, 1e-3)


def test_without_pytorch_the_suite_says_so_and_measures_nothing(tmp_path):
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nexit 1\n")
    interpreter.chmod(0o755)
    said = []
    setting = dataclasses.replace(SETTING, torch_python=interpreter, say=said.append)
    assert peers_suite(setting) == ([], {})
    assert said == ["peers: no PyTorch in python; --torch-python names another."]


def test_an_interpreter_that_is_none_is_refused(tmp_path):
    setting = dataclasses.replace(SETTING, torch_python=tmp_path / "missing")
    with pytest.raises(ValueError, match=r"missing cannot be run \(No such file"):
        peers_suite(setting)
