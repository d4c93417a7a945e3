"""Training steps on full rows of random tokens, taken in turns and described."""

import statistics
from collections.abc import Callable, Mapping

from experiments.benchmark.random_rows import random_batch
from experiments.benchmark.suite import Record
from unimod_jax.parallel import MeshConfig, make_mesh
from unimod_jax.training import Assembly, Experiment
from unimod_jax.training.prepared_step import PreparedStep, prepare_step, time_steps


def prepare_on_random_rows(experiment: Experiment) -> PreparedStep:
    """The step of `experiments.train` on one device; only records are missing."""
    assembly = Assembly(experiment)
    return prepare_step(assembly, make_mesh(MeshConfig()), random_batch(assembly))


def race(
    steps: Mapping[str, PreparedStep], *, seconds: float, fewest: int = 5
) -> dict[str, Record]:
    """Takes the steps in turns and describes each.

    Args:
      steps, seconds, fewest: as of `time_steps`.

    Returns:
      name -> record: `step_seconds` (median), `samples`, FLOPs, tokens and bytes.
    """
    taken = time_steps(steps, seconds=seconds, fewest=fewest)
    return {name: _record(step, taken[name]) for name, step in steps.items()}


def race_experiments(
    experiments: Mapping[str, Experiment],
    say: Callable[[str], None],
    *,
    seconds: float,
    **labels: str,
) -> list[Record]:
    """Compiles the steps of experiments and races them.

    Args:
      experiments: contender -> experiment; all their states are held at once.
      say: prints a line of progress.
      seconds: as of `race`.
      **labels: what every record says beside its `contender`.
    """
    steps = {}
    for name, experiment in experiments.items():
        say(f"compiling {' '.join([*labels.values(), name])}")
        steps[name] = prepare_on_random_rows(experiment)
    measured = race(steps, seconds=seconds)
    return [labels | {"contender": name} | record for name, record in measured.items()]


def _record(step: PreparedStep, seconds: list[float]) -> Record:
    assembly, compiled = step.assembly, step.compiled
    return {
        "step_seconds": statistics.median(seconds),
        "fastest_seconds": min(seconds),
        "samples": len(seconds),
        "flops": assembly.flops_per_step,
        "flops_per_second": assembly.flops_per_step / statistics.median(seconds),
        "compiled_flops": compiled.compiled_flops,
        "tokens": assembly.tokens_per_step,
        "temporary_bytes": compiled.temporary_bytes,
        "state_bytes": compiled.argument_bytes,
        "peak_bytes": compiled.needed_bytes,
        "trace_seconds": compiled.trace_seconds,
        "compile_seconds": compiled.compile_seconds,
    }
