"""Our training step beside PyTorch's: the same model, parameters, rows and optimiser.

Three systems: the dense transformer; Mixture-of-Transformers, where PyTorch reads each
modality by index (2411.04996, Algorithm 1) and we store modalities apart; and
Mixture-of-Depths routing, top-k with gather and scatter on both sides (2404.02258), of
the kind that UniMoD gives every task (2502.06474). The model is a Chameleon: norms
before each branch, query and key norms per head, SwiGLU, rotary positions, full causal
rows of a prompt and an image's codes.

Nothing is timed before both agree on the loss and the gradient norm of the first steps.
PyTorch runs in a process of its own, with as many threads; the two take turns.
"""

import dataclasses
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmark.peer_export import write_peer
from experiments.benchmark.peer_models import SIZES, SYSTEMS, peer_experiment
from experiments.benchmark.peer_process import PeerError, PeerProcess, PeerRefusal
from experiments.benchmark.race import prepare_on_random_rows
from experiments.benchmark.suite import Record, Setting, SuiteResult
from pallas_kernels.benchmark.timing import Budget, Run, seconds_in_turns
from unimod_jax.training.prepared_step import PreparedStep

AGREEMENT = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest relative difference of losses and gradient norms that is the same model."""

# The first compiles; the later ones see what the optimiser made of the parameters.
_TRIED_STEPS = 3
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 100
_ROOT = Path(__file__).resolve().parents[2]

# One heap that keeps its pages from step to step, as the allocators that PyTorch's
# performance tuning guide recommends on CPUs (jemalloc, TCMalloc) do.
_KEEPING_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**40),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}


class StepSeen(NamedTuple):
    """What a step says of itself, before it changes the parameters."""

    loss: float
    gradient_norm: float


class _Tried(NamedTuple):
    """Steps of both sides, PyTorch's taken in one way; or why it takes none.

    Seconds are those of its better step after the first, which compiles.
    """

    ours: list[StepSeen]
    theirs: list[StepSeen]
    seconds: float
    difference: float
    failure: str


def peers_suite(setting: Setting) -> SuiteResult:
    """Times our step beside PyTorch's; figures are our seconds over PyTorch's.

    Args:
      setting: `torch_python` names the interpreter that has PyTorch; without one there
        are no figures, and a line that says so.

    Raises:
      ValueError: the interpreter does not exist, or the two disagree on a step.
      PeerError: the PyTorch process died.
    """
    if setting.platform == "tpu":
        setting.say("peers: PyTorch is compared on CPUs and NVIDIA GPUs only.")
        return SuiteResult([], {})
    python = setting.torch_python or Path(sys.executable)
    if not _has_torch(python):
        setting.say(
            f"peers: no PyTorch in {python.name}; --torch-python names another."
        )
        return SuiteResult([], {})
    records = [_compare(system, python, setting) for system in SYSTEMS]
    figures = {f"peers.{r['system']}.step_ratio": r["step_ratio"] for r in records}
    return SuiteResult(records, figures)


def check_agreement(
    system: str,
    ours: Sequence[StepSeen],
    theirs: Sequence[StepSeen],
    tolerance: float,
) -> float:
    """The largest relative difference of two runs' first steps.

    Raises:
      ValueError: if it is larger than the tolerance, or no number.
    """
    differences = [
        abs(our - their) / max(abs(our), abs(their), 1e-30)
        for step in zip(ours, theirs, strict=True)
        for our, their in zip(*step, strict=True)
    ]
    largest = float(np.max(differences))
    if not largest <= tolerance:
        raise ValueError(
            f"{system}: JAX and PyTorch differ by {largest:.1e} in loss or gradient "
            f"norm, {[*map(tuple, ours)]} against {[*map(tuple, theirs)]}, but no more "
            f"than {tolerance:.0e} is rounding; make them one model before timing it."
        )
    return largest


def _has_torch(python: Path) -> bool:
    """Whether an interpreter could import torch; ValueError if it is none."""
    finds = (
        "import importlib.util, sys; sys.exit(not importlib.util.find_spec('torch'))"
    )
    try:
        return not subprocess.run([python, "-c", finds], check=False).returncode
    except OSError as error:
        raise ValueError(
            f"torch_python {python} cannot be run ({error.strerror}); give the path of "
            "a Python interpreter that has PyTorch."
        ) from error


def _compare(system: str, python: Path, setting: Setting) -> Record:
    """Agreement, then seconds, of one system."""
    sizes = SIZES["quick" if setting.quick else setting.platform]
    prepared = prepare_on_random_rows(peer_experiment(system, sizes))
    command = [str(python), "-m", "experiments.benchmark.torch_peer.serve"]
    memory = _KEEPING_MEMORY if setting.platform == "cpu" else {}
    with tempfile.TemporaryDirectory() as folder:
        device = "cuda" if setting.platform == "gpu" else "cpu"
        write_peer(Path(folder), prepared, device)
        with PeerProcess(
            [*command, folder],
            Path(folder, "stderr.log"),
            {"PYTHONPATH": str(_ROOT), **memory},
        ) as peer:
            record = {"system": system} | measure(system, prepared, peer, setting)
    setting.say(
        f"peers: {system} takes {record['step_seconds']:.3f} s, PyTorch "
        f"{record['peer_step_seconds']:.3f} s ({record['peer_way']})."
    )
    return record


def measure(
    system: str, prepared: PreparedStep, peer: PeerProcess, setting: Setting
) -> Record:
    """Checks that steps agree, taken in each of PyTorch's ways; times the fastest.

    Args:
      system: a name of `SYSTEMS`, for messages.
      prepared: our step, not taken yet.
      peer: the PyTorch process, with the same parameters.
      setting: seconds are those of the whole suite.

    Returns:
      The record, all but the system's name.

    Raises:
      ValueError: the two disagree.
      PeerError: the peer died.
    """
    tried = {way: _try_way(system, prepared, peer, way) for way in peer.ready["ways"]}
    seconds_of = {way: x.seconds for way, x in tried.items() if not x.failure}
    if not seconds_of:
        failures = {way: x.failure for way, x in tried.items()}
        raise PeerError(f"PyTorch takes no step of {system} here: {failures}.")
    way = min(seconds_of, key=seconds_of.__getitem__)
    first = tried[next(iter(seconds_of))]
    samples = seconds_in_turns(
        {
            "ours": Run(prepared.start, jax.block_until_ready),
            "theirs": Run(lambda: peer.ask({"take": way}), lambda _: None),
        },
        repeats=_MOST_ROUNDS,
        budget=Budget(setting.seconds / len(SYSTEMS)),
        fewest=_FEWEST_ROUNDS,
    )
    step_seconds, peer_seconds = map(statistics.median, samples.values())
    return {
        "step_seconds": step_seconds,
        "peer_step_seconds": peer_seconds,
        "step_ratio": step_seconds / peer_seconds,
        "rounds": len(samples["ours"]),
        "useful_flops": prepared.assembly.flops_per_step,
        "our_temporary_bytes": prepared.compiled.temporary_bytes,
        "our_compile_seconds": prepared.compiled.seconds,
        "largest_difference": max(tried[w].difference for w in seconds_of),
        **{f"our_first_{name}": x for name, x in first.ours[0]._asdict().items()},
        **{f"peer_first_{name}": x for name, x in first.theirs[0]._asdict().items()},
        "peer_way": way,
        **{f"peer_{w}_seconds": seconds for w, seconds in seconds_of.items()},
        **{f"peer_{w}_failure": x.failure for w, x in tried.items() if x.failure},
        **{f"peer_{name}": x for name, x in peer.ready.items() if name != "ways"},
        **dataclasses.asdict(prepared.assembly.spec.config),
    }


def _try_way(
    system: str, prepared: PreparedStep, peer: PeerProcess, way: str
) -> _Tried:
    """Takes the same few steps on both sides; ValueError if they disagree."""
    ours, theirs, seconds = [], [], []
    try:
        for _ in range(_TRIED_STEPS):
            answer = peer.ask({"take": way})
            theirs.append(StepSeen(*(answer[name] for name in StepSeen._fields)))
            seconds.append(answer["seconds"])
            jax.block_until_ready(prepared.start())
            metrics = prepared.metrics
            ours.append(StepSeen(*(float(metrics[n]) for n in StepSeen._fields)))
    except PeerRefusal as refusal:
        return _Tried(ours, theirs, math.inf, math.nan, str(refusal))
    tolerance = AGREEMENT[prepared.assembly.spec.config.compute_dtype]
    difference = check_agreement(f"{system} ({way})", ours, theirs, tolerance)
    return _Tried(ours, theirs, min(seconds[1:]), difference, "")
