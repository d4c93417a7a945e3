"""Trains an experiment, or resumes it: `python -m experiments.train EXPERIMENT`.

Options override the experiment by dotted names, such as `--training.steps 200`; the
same command resumes a run that was interrupted. With `--tiny` a small model of the same
architecture trains on the handwritten digits, in a minute on a laptop.

On several hosts, start the same command on each: JAX finds TPU pods, GKE, Slurm and
Open MPI by itself; elsewhere give --processes.coordinator, .count and .index, or set
$JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES and $JAX_PROCESS_ID.

Exit codes: 0 done; 2 a problem told in one sentence; 75 told to stop (SIGTERM), and
saved; 76 another process died or never joined. After 75 and 76, run the same again.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import (
    experiment_names,
    keep_compiled_programs,
    load_experiment,
    one_sentence_errors,
    override,
    show_log,
)
from unimod_jax.training import (
    ProcessOptions,
    ProfileSteps,
    reduced_twin,
    start_processes,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.train",
        description=__doc__,
        epilog="EXPERIMENT --help lists the options of an experiment.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        nargs="?",
        help=f"a Python file, or one of: {', '.join(experiment_names())}",
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="train the experiment's tiny form; options override that one",
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        help="where to write (default: runs/EXPERIMENT, or runs/EXPERIMENT-tiny)",
    )
    parser.add_argument(
        "--profile",
        metavar="STEPS",
        help="trace steps into RUN/profile: FIRST:END, or how many after the first few",
    )
    _add_process_options(parser)
    known, rest = parser.parse_known_args(arguments)
    if known.experiment is None:
        parser.print_help()
        raise SystemExit(0 if {"-h", "--help"} & set(rest) else 2)
    show_log()
    with one_sentence_errors():
        program = f"{parser.prog} {known.experiment} [--tiny] [--run-dir DIR]"
        experiment = load_experiment(known.experiment)
        if known.tiny:
            experiment = reduced_twin(experiment)
        experiment = override(experiment, rest, program)
        profile = ProfileSteps.parse(known.profile) if known.profile else None
        # Imported late: options are checked before JAX starts its devices.
        from unimod_jax.training import train

        run = train(
            experiment,
            known.run_dir or _default(known.experiment, known.tiny),
            processes=start_processes(_process_options(known)),
            profile=profile,
        )
        print(run.path)


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    for field in dataclasses.fields(ProcessOptions):
        parser.add_argument(
            f"--processes.{field.name}",
            type=_yes_or_no if field.type is bool else field.type,
            default=field.default,
            help=f"see ProcessOptions (default: {field.default!r})",
        )


def _process_options(known: argparse.Namespace) -> ProcessOptions:
    names = [field.name for field in dataclasses.fields(ProcessOptions)]
    return ProcessOptions(
        **{name: getattr(known, f"processes.{name}") for name in names}
    )


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is not True or False")
    return text.lower() == "true"


def _default(experiment: str, tiny: bool) -> Path:
    """The run directory of an experiment named or in a file."""
    name = Path(experiment).with_suffix("")
    folder = Path("runs") / (name.name if name.is_absolute() else name)
    return folder.with_name(folder.name + "-tiny") if tiny else folder


if __name__ == "__main__":
    keep_compiled_programs()
    main()
