"""What a plan costs before its first step: tracing, compiling, and starting again.

A plan of few bodies is compiled about as fast as the dense scan, however many layers it
has. A ramp has a capacity per layer; its layers are one scanned body, in which one task
switches among the capacities, so all else is compiled once. Compile time hardly depends
on sizes, so the published plans are compiled with all their layers and small widths,
from shapes alone: nothing here runs, but the processes that measure a start.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax.experimental.compilation_cache import compilation_cache

from experiments.benchmark.prepared_step import compile_program
from experiments.benchmark.random_rows import random_batch
from experiments.benchmark.suite import Record, Setting, SuiteResult
from experiments.benchmark.workload import Size, Workload, sized
from experiments.published import published
from unimod_jax.models import UnifiedModel
from unimod_jax.training import training_step
from unimod_jax.training.optimizer import make_optimizer
from unimod_jax.training.state import fresh_state

_WIDTH = 128
_HEAD_DIM = 32
_ROOT = Path(__file__).resolve().parents[2]

_PLANS = {
    "show_o.dense": ("show_o_512", "dense"),
    "ramp": ("show_o_512", "unimod"),
    "ramp_quantised": ("show_o_512", "unimod_quantised"),
    "emu3.dense": ("emu3", "dense"),
    "unimod": ("emu3", "unimod"),
    "mot": ("emu3", "mot"),
}
"""Name in figures -> (preset, variant): Show-o has 24 layers, Emu3 32."""

_STARTED = "toy/digits_masked_image"
"""What the started process trains: a small model gains least from a cache."""

_BASELINES = {
    "ramp": "show_o.dense",
    "ramp_quantised": "show_o.dense",
    "unimod": "emu3.dense",
    "mot": "emu3.dense",
}
_ORDER = (
    *("show_o.dense", "ramp", "show_o.dense", "ramp_quantised"),
    *("emu3.dense", "unimod", "mot", "emu3.dense"),
)
"""Each baseline is taken twice, among the others: a machine's speed drifts."""


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What it took to make one training step.

    Attributes:
      trace_seconds: from Python to StableHLO.
      compile_seconds: from there to a program.
      num_bodies: different layers of the plan.
      temporary_bytes: of the program, by its memory analysis.
    """

    trace_seconds: float
    compile_seconds: float
    num_bodies: int
    temporary_bytes: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.trace_seconds + self.compile_seconds


def plan_workload(plan: str, *, width: int = _WIDTH) -> Workload:
    """A published plan at a small width, with all its layers and tokens.

    Each task has as many rows as its share, and one row where all are alike.

    Args:
      plan: a name of `_PLANS`.
      width: D, a multiple of 32.
    """
    preset, variant = _PLANS[plan]
    rows = {task.name: task.share for task in published(preset, variant).tasks}
    size = Size(rows, width=width, head_dim=_HEAD_DIM)
    return Workload.of(sized(preset, variant, size))


def compile_step(workload: Workload) -> Compilation:
    """Traces and compiles a training step afresh, from shapes alone."""
    spec, training = workload.spec, workload.training
    host = random_batch(
        workload.layouts, workload.rows, spec.vocabulary_size, spec.patch_size
    )
    batch = jax.eval_shape(lambda: host)
    model, optimizer = UnifiedModel(spec), make_optimizer(training)
    state = nn.unbox(
        jax.eval_shape(lambda: fresh_state(model, optimizer, host, training.seed))
    )
    step = training_step(model, workload.objective, optimizer, workload.task_weights)
    with _nothing_cached():
        made = compile_program(step, state, batch)
    memory: Any = made.program.memory_analysis()
    return Compilation(
        made.trace_seconds,
        made.compile_seconds,
        len(set(spec.designs)),
        int(memory.temp_size_in_bytes),
    )


def compile_suite(setting: Setting) -> SuiteResult:
    """Times compilations against the dense scan, and a second start against a first.

    Figures, all ratios of trace and compile seconds together: `compile.ramp.ratio`
    (Show-o's twelve capacities) and `compile.ramp_quantised.ratio` (four levels) over
    dense Show-o, `compile.unimod.ratio` and `compile.mot.ratio` over dense Emu3; and
    `compile.cached_start.speedup`, seconds of a process from its start to its first
    step without and with the cache of the one before.
    """
    width = 32 if setting.quick else _WIDTH
    order = ("show_o.dense", "ramp_quantised") if setting.quick else _ORDER
    workloads = {
        name: plan_workload(name, width=width) for name in dict.fromkeys(order)
    }
    compile_step(workloads[order[0]])  # Python's imports and first calls.
    taken: dict[str, list[Compilation]] = {name: [] for name in workloads}
    for name in order:
        taken[name].append(compile_step(workloads[name]))
        setting.say(f"compile: {name} in {taken[name][-1].seconds:.1f} s")
    records = [_record(name, samples) for name, samples in taken.items()]
    start_records, starts = _cached_start(setting)
    return SuiteResult(records + start_records, ratios(taken) | starts)


def ratios(taken: Mapping[str, list[Compilation]]) -> dict[str, float]:
    """Median seconds of each plan over those of its dense baseline."""
    seconds = {
        name: statistics.median(sample.seconds for sample in samples)
        for name, samples in taken.items()
    }
    return {
        f"compile.{name}.ratio": seconds[name] / seconds[baseline]
        for name, baseline in _BASELINES.items()
        if name in seconds and baseline in seconds
    }


def _record(name: str, samples: list[Compilation]) -> Record:
    return {
        "plan": name,
        "trace_seconds": statistics.median(s.trace_seconds for s in samples),
        "compile_seconds": statistics.median(s.compile_seconds for s in samples),
        "temporary_bytes": samples[0].temporary_bytes,
        "layer_bodies": samples[0].num_bodies,
        "samples": len(samples),
    }


@contextlib.contextmanager
def _nothing_cached() -> Iterator[None]:
    """Neither traces nor compiled programs of earlier calls are found inside."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.clear_caches()
    compilation_cache.reset_cache()
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _cached_start(setting: Setting) -> tuple[list[Record], dict[str, float]]:
    """Starts one process twice in a new folder; the second finds the first's cache."""
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("cold", "warm"):
            start = time.perf_counter()
            parts = start_process(Path(folder), setting.platform)
            seconds = time.perf_counter() - start
            setting.say(f"compile: a {cache} start in {seconds:.1f} s")
            record = {"start": cache, "start_seconds": seconds}
            records.append(record | parts)
    cold, warm = (record["start_seconds"] for record in records)
    return records, {"compile.cached_start.speedup": cold / warm}


def start_process(folder: Path, platform: str) -> dict[str, float]:
    """Runs `first_step` to its end.

    Args:
      folder: where it runs and keeps its cache.
      platform: of its devices. It takes no more memory of them than it needs, since
        this process holds some too.

    Returns:
      Seconds of its parts, as it says.
    """
    environment = os.environ | {
        "PYTHONPATH": str(_ROOT),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if platform == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-m", "experiments.benchmark.first_step", _STARTED]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])
