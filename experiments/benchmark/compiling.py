"""What a plan costs before its first step: tracing, compiling, and starting again.

A plan of few bodies is compiled about as fast as the dense scan, however many layers it
has. A ramp has a capacity per layer; its layers are one scanned body, in which one task
switches among the capacities, so all else is compiled once. Compile time hardly depends
on sizes, so the published plans are compiled with all their layers and small widths,
from shapes alone: nothing here runs, but the processes that measure a start.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from experiments.benchmark.suite import Record, Setting, SuiteResult
from experiments.benchmark.workload import Size, sized
from experiments.published import published
from unimod_jax.parallel import MeshConfig, make_mesh
from unimod_jax.training import Assembly
from unimod_jax.training.prepared_step import CompiledStep, compile_step
from unimod_jax.training.sharded_step import (
    abstract_state,
    placed_batch,
    placed_state,
)

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


def plan_assembly(plan: str, *, width: int = _WIDTH) -> Assembly:
    """A published plan at a small width, with all its layers and tokens.

    Each task has as many rows as its share, and one row where all are alike.

    Args:
      plan: a name of `_PLANS`.
      width: D, a multiple of 32.
    """
    preset, variant = _PLANS[plan]
    shares = {task.name: task.share for task in published(preset, variant).tasks}
    size = Size(shares, width=width, head_dim=_HEAD_DIM)
    return Assembly(sized(preset, variant, size))


def compile_afresh(assembly: Assembly) -> CompiledStep:
    """Traces and compiles a training step anew, from shapes alone."""
    mesh, rules = make_mesh(MeshConfig()), assembly.experiment.sharding
    state = placed_state(abstract_state(assembly), mesh, rules)
    batch = placed_batch(assembly, mesh)
    with _nothing_cached():
        return compile_step(assembly, mesh, state, batch)


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
    plans = {name: plan_assembly(name, width=width) for name in dict.fromkeys(order)}
    compile_afresh(plans[order[0]])  # Python's imports and first calls.
    taken: dict[str, list[CompiledStep]] = {name: [] for name in plans}
    for name in order:
        taken[name].append(compile_afresh(plans[name]))
        setting.say(f"compile: {name} in {taken[name][-1].seconds:.1f} s")
    records = [_record(name, plans[name], steps) for name, steps in taken.items()]
    start_records, starts = _cached_start(setting)
    return SuiteResult(records + start_records, ratios(taken) | starts)


def ratios(taken: Mapping[str, list[CompiledStep]]) -> dict[str, float]:
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


def _record(name: str, plan: Assembly, samples: list[CompiledStep]) -> Record:
    return {
        "plan": name,
        "trace_seconds": statistics.median(s.trace_seconds for s in samples),
        "compile_seconds": statistics.median(s.compile_seconds for s in samples),
        "temporary_bytes": samples[0].temporary_bytes,
        "layer_bodies": len(set(plan.spec.designs)),
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
