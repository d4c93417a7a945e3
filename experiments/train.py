"""Trains an experiment, or resumes it: `python -m experiments.train EXPERIMENT`.

Options override the experiment by dotted names, such as `--training.steps 200`; the
same command resumes a run that was interrupted. With `--tiny` a small model of the same
architecture trains on the handwritten digits, in a minute on a laptop.
"""

import argparse
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
from unimod_jax.training import reduced_twin


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
        # Imported late: options are checked before JAX starts its devices.
        from unimod_jax.training import train

        run = train(experiment, known.run_dir or _default(known.experiment, known.tiny))
        print(run.path)


def _default(experiment: str, tiny: bool) -> Path:
    """The run directory of an experiment named or in a file."""
    name = Path(experiment).with_suffix("")
    folder = Path("runs") / (name.name if name.is_absolute() else name)
    return folder.with_name(folder.name + "-tiny") if tiny else folder


if __name__ == "__main__":
    keep_compiled_programs()
    main()
