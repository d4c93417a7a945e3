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
    default_directory,
    experiment_parser,
    given_experiment,
    keep_compiled_programs,
    one_sentence_errors,
    override,
    parse_with_overrides,
    show_log,
)
from unimod_jax.training import (
    ProcessOptions,
    ProfileSteps,
    StartingPoint,
    start_processes,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = experiment_parser("experiments.train", __doc__)
    parser.add_argument(
        "--run-dir",
        type=Path,
        help="where to write (default: runs/EXPERIMENT, or runs/EXPERIMENT-tiny)",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="DIR",
        help="a run or a converted model: its architecture and weights, with the "
        "experiment's towers, routing and recipe",
    )
    parser.add_argument(
        "--image-tokenizer",
        type=Path,
        metavar="DIR",
        help="published files of a learned image tokenizer, for a new run with "
        "data.code_size: MAGVIT-v2, Chameleon's VQ-GAN, Emu3's, or a VAE of diffusers",
    )
    parser.add_argument(
        "--profile",
        metavar="STEPS",
        help="trace steps into RUN/profile: FIRST:END, or how many after the first few",
    )
    _add_process_options(parser)
    known, rest = parse_with_overrides(parser, arguments)
    show_log()
    with one_sentence_errors():
        program = f"{parser.prog} {known.experiment} [--tiny] [--run-dir DIR]"
        experiment, start = given_experiment(known), None
        if known.start_from is not None:
            start = StartingPoint.open(known.start_from)
            experiment = start.adopted_by(experiment)
        experiment = override(experiment, rest, program)
        profile = ProfileSteps.parse(known.profile) if known.profile else None
        # Imported late: options are checked before JAX starts its devices.
        from unimod_jax.training import train

        run = train(
            experiment,
            known.run_dir or default_directory(known),
            start=start,
            image_tokenizer=known.image_tokenizer,
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


if __name__ == "__main__":
    keep_compiled_programs()
    main()
