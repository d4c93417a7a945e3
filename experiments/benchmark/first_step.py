"""A process that starts, takes one training step and says so: what a start costs.

It does what `python -m experiments.train` does from its start to its first step: the
same model, state, step and cache of compiled programs. Only records are missing: its
rows are random. `compiling` runs it twice in one folder.
"""

import json
import sys
import time

_STARTED = time.perf_counter()


def main() -> None:
    """Takes one step of the experiment named; prints the seconds of each part."""
    import jax

    from experiments.benchmark.race import prepare_on_random_rows
    from experiments.command_line import keep_compiled_programs, load_experiment

    keep_compiled_programs()
    experiment = load_experiment(sys.argv[1])
    imported = time.perf_counter()
    step = prepare_on_random_rows(experiment)
    start = time.perf_counter()
    jax.block_until_ready(step.start())
    parts = {
        "import_seconds": imported - _STARTED,
        "trace_seconds": step.compiled.trace_seconds,
        "compile_seconds": step.compiled.compile_seconds,
        "step_seconds": time.perf_counter() - start,
    }
    print(json.dumps(parts))


if __name__ == "__main__":
    main()
