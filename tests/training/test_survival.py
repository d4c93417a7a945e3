"""Whatever happens to two processes, the run ends with the same bits.

One is killed, they are told to stop, the newest checkpoint is truncated, at moments and
in an order drawn from a seed; each time both are started again. UNIMOD_FAULTS=50 plays
50 faults instead of ten, UNIMOD_FAULT_SEED another order.
"""

import dataclasses
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from tests.training.tiny_experiment import with_mesh
from tests.training.two_process_experiment import experiment
from tests.training.two_processes import TwoProcesses
from unimod_jax.training import Assembly, RunDirectory, train
from unimod_jax.training.endings import PEER_LOST, STOPPED
from unimod_jax.training.metric_writer import read_metrics

FAULTS = int(os.environ.get("UNIMOD_FAULTS", "10"))
SEED = int(os.environ.get("UNIMOD_FAULT_SEED", "6"))
STEPS = 24 * max(1, FAULTS // 10)
"""More than the faults leave time for: a run that has ended cannot be disturbed."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all processes of this file run, so that they compile once."""
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def undisturbed(home: Path, data_directory: Path) -> RunDirectory:
    run = TwoProcesses(RunDirectory(home / "undisturbed"), home, data_directory, STEPS)
    run.start()
    assert run.codes() == [0, 0], run.log()
    return run.run


@pytest.fixture
def run(home: Path, data_directory: Path, request) -> Iterator[TwoProcesses]:
    path = home / request.node.name
    run = TwoProcesses(RunDirectory(path), home, data_directory, STEPS)
    yield run
    run.close()


def losses(run: RunDirectory) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run.metrics)]


def final_arrays(run: RunDirectory) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint, read by one process on one device."""
    from orbax.checkpoint import v1 as ocp

    folder = run.checkpoints / f"{STEPS}"
    shapes = ocp.metadata(folder, checkpointable_name="state").metadata
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes
    )
    tree = ocp.load(folder, wanted, checkpointable_name="state")
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(leaf)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )
        for path, leaf in flat
    }


def kill(run: TwoProcesses, victim: int, chance: random.Random) -> None:
    """SIGKILL to one of them, somewhere between restoring and the fifth step."""
    if chance.random() < 0.3:
        run.wait_for_log("waits at 'checkpoints'")
    else:
        run.wait_for_steps(chance.randint(1, 5))
    run.kill(victim)
    codes = run.codes()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == PEER_LOST, (
        f"{codes}\n{run.log()}"
    )
    assert f"error: process {victim} (" in run.logs[1 - victim].read_text()


def tell_to_stop(run: TwoProcesses, chance: random.Random) -> None:
    """SIGTERM to both, or to one that tells the other."""
    run.wait_for_steps(chance.randint(1, 4))
    run.terminate(*chance.choice([(0, 1), (0, 1), (0,), (1,)]))
    codes = run.codes()
    assert codes == [STOPPED, STOPPED], f"{codes}\n{run.log()}"
    assert "told to stop and is saved at step" in run.log()


def play(run: TwoProcesses, faults: int, seed: int) -> list[str]:
    """Plays that many faults; returns what happened."""
    chance = random.Random(seed)
    happened: list[str] = []
    kinds: list[str] = []
    truncated, victim = None, chance.randint(0, 1)
    while len(happened) < faults:
        kinds = kinds or chance.sample(["kill", "stop", "truncate", "truncate"], 4)
        run.start()
        kind = kinds.pop()
        if kind == "stop":
            tell_to_stop(run, chance)
        else:
            kill(run, victim, chance)
            victim = 1 - victim
        if truncated is not None and "'first step'" in run.log():
            assert f"checkpoint {truncated} in" in run.log(), run.log()
        happened.append("stop" if kind == "stop" else "kill")
        truncated = run.truncate_newest_checkpoint() if kind == "truncate" else None
        if truncated is not None:
            happened.append("truncate")
    return happened


def test_a_run_full_of_faults_ends_with_the_same_bits(
    run: TwoProcesses, undisturbed: RunDirectory
):
    happened = play(run, FAULTS, SEED)
    assert {"kill", "stop", "truncate"} <= set(happened)
    run.start()
    assert run.codes() == [0, 0], run.log()
    assert [step for step, _ in losses(run.run)] == list(range(1, STEPS + 1))
    assert losses(run.run) == losses(undisturbed)
    chex.assert_trees_all_equal(final_arrays(run.run), final_arrays(undisturbed))


def test_one_process_goes_on_where_two_stopped(
    undisturbed: RunDirectory, data_directory: Path, tmp_path: Path
):
    run = RunDirectory(tmp_path / "alone")
    shutil.copytree(undisturbed.path, run.path)
    shutil.rmtree(run.checkpoints / f"{STEPS}")
    data = dataclasses.replace(experiment().data, directory=str(data_directory))
    config = dataclasses.replace(experiment().training, steps=STEPS)
    alone = dataclasses.replace(experiment(), data=data, training=config)
    train(with_mesh(alone, data=1, fsdp=1), run.path)
    pairs = zip(losses(run), losses(undisturbed), strict=True)
    for (step, found), (_, expected) in pairs:
        assert found == pytest.approx(expected, rel=1e-4), step


def test_a_host_that_never_joins_is_named(run: TwoProcesses):
    run.start("--processes.start_timeout", "3", indices=(0,))
    assert run.codes() == [PEER_LOST], run.log()
    assert "error: process 1 of 2 did not join within 3 s" in run.log()


def test_the_experiment_is_cut_over_both_processes():
    assert experiment().mesh.num_devices == 8
    assert Assembly(experiment()).rows == {"text_to_image": 8}
