"""Says before a run whether it fits: `python -m experiments.compile_check EXPERIMENT`.

Compiles the real training step for a TPU slice or NVIDIA GPUs that are not there, and
prints the memory of a chip, what chips send each other, and how fast a step can be at
best. Options override the experiment by dotted names, as in `experiments.train`.
Without a `--mesh` option a mesh is chosen, and without
`--training.accumulation_steps` the parts of a step; both are printed. TPUs and GPUs
need `pip install -r requirements-compile.txt`; `--topology cpu:4` needs nothing.

Exit status: 0 where it fits, 3 where it does not, 2 for a command that is wrong.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import (
    experiment_parser,
    given_experiment,
    one_sentence_errors,
    override,
    parse_with_overrides,
)
from experiments.options import options_by_name
from unimod_jax.parallel import MeshConfig
from unimod_jax.training import Experiment

DOES_NOT_FIT = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    known, rest = parse_with_overrides(parser, arguments)
    with one_sentence_errors():
        program = f"{parser.prog} {known.experiment} --topology NAME [--json FILE]"
        experiment = override(given_experiment(known), rest, program)
        if known.topology is None:
            raise ValueError("no --topology is given; name one such as v5p:4x4x4.")
        # Imported late: options are checked before JAX starts its devices.
        from experiments.compile_check.check import compile_check
        from experiments.compile_check.plan import Freedom
        from unimod_jax.parallel.topology import describe

        free = Freedom(*_is_free(experiment, rest))
        name = f"{known.experiment} --tiny" if known.tiny else known.experiment
        topology = describe(known.topology)
        report = compile_check(name, experiment, topology, free, quick=known.quick)
        if known.json != "-":
            print("\n".join(report.table()))
        if known.json is not None:
            written = json.dumps(report.as_json(), indent=2)
            if known.json == "-":
                print(written)
            else:
                Path(known.json).write_text(written + "\n", encoding="utf-8")
    return 0 if report.fits else DOES_NOT_FIT


def _parser() -> argparse.ArgumentParser:
    parser = experiment_parser("experiments.compile_check", __doc__)
    parser.add_argument(
        "--topology",
        metavar="NAME",
        help="chips to compile for: v5p:4x4x4, v5e:8x8, a100:8, h200, cpu:4, ...",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write the report as JSON; - prints it instead of the table",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compile with the least effort: sooner, memory nearly the same",
    )
    return parser


def _is_free(experiment: Experiment, options: Sequence[str]) -> tuple[bool, bool]:
    """Whether mesh and parts are the command's to choose: where nobody named them."""
    named = options_by_name(options)
    mesh = not any(name.startswith("mesh.") for name in named)
    parts = "training.accumulation_steps" not in named
    return (
        mesh and experiment.mesh == MeshConfig(),
        parts and experiment.training.accumulation_steps == 1,
    )


def _stay_off_accelerators() -> None:
    """A setting of the whole process: what is described is not to be taken."""
    import jax

    jax.config.update("jax_platforms", "cpu")


if __name__ == "__main__":
    _stay_off_accelerators()
    sys.exit(main())
