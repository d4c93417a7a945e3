"""Takes tiny releases all the way: `python -m experiments.checkpoint_tour`.

Writes Show-o, Emu3 and Chameleon in their published layouts with random weights,
converts them, draws and describes pictures, starts towers and routes from them, trains,
and exports. It prints a line for each step and needs no network, no PyTorch and no
accelerator.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import keep_compiled_programs, one_sentence_errors

_FAMILIES = ("show-o", "emu3", "chameleon")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tour; returns 0 if every step passed, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.checkpoint_tour",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--families", nargs="+", choices=_FAMILIES, default=_FAMILIES, help="which ones"
    )
    parser.add_argument(
        "--out", type=Path, help="a new folder to keep what the steps write"
    )
    options = parser.parse_args(arguments)
    with one_sentence_errors():
        if options.out is not None:
            options.out.mkdir(parents=True)
            passed, taken = _tour(options.families, options.out)
        else:
            with tempfile.TemporaryDirectory() as folder:
                passed, taken = _tour(options.families, Path(folder))
    print(f"{passed} of {taken} steps passed")
    return 0 if passed == taken else 1


def _tour(families: Sequence[str], folder: Path) -> tuple[int, int]:
    """Takes all steps; returns how many passed, and how many there are."""
    from experiments.checkpoint_tour.steps import STEPS, Journey

    passed = 0
    for family in families:
        journey = Journey(family, folder / family)
        for step in STEPS:
            started = time.monotonic()
            # A step that breaks is reported and the next ones still tried.
            try:
                outcome = f"ok    {step(journey)}"
                passed += 1
            except Exception as error:
                outcome = f"FAIL  {type(error).__name__}: {error}"
            seconds = time.monotonic() - started
            name = step.__name__.replace("_", " ")
            line = f"{family:<10} {name:<34} {seconds:6.1f} s  {outcome}"
            print(line, flush=True)
    return passed, len(STEPS) * len(families)


if __name__ == "__main__":
    keep_compiled_programs()
    sys.exit(main())
