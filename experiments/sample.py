"""Draws images for a prompt, or captions an image, with a trained run.

python -m experiments.sample RUN --prompt "a handwritten seven" --out seven.png
python -m experiments.sample RUN --image scan.png
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import (
    keep_compiled_programs,
    one_sentence_errors,
    show_log,
)

_LARGEST_BATCH = 64
_GAP = 4
"""White pixels between the images of a grid."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="draw images of this text")
    what.add_argument("--image", type=Path, help="print a caption of this PNG")
    parser.add_argument(
        "--count", type=_positive, default=16, help="images to draw (default: 16)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("sample.png"),
        help="where to write the grid of images (default: sample.png)",
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="another seed, other images (default: 0)"
    )
    parser.add_argument(
        "--scale", type=_positive, default=16, help="enlargement (default: 16)"
    )
    options = parser.parse_args(arguments)
    show_log()
    with one_sentence_errors():
        if options.prompt is not None:
            _draw(options)
        else:
            _caption(options)


def _draw(options: argparse.Namespace) -> None:
    from unimod_jax.evaluation import (
        Sampler,
        check_writable,
        image_grid,
        open_run,
        write_png,
    )

    check_writable(options.out)
    sampler = Sampler(
        open_run(options.run), batch_size=min(options.count, _LARGEST_BATCH)
    )
    images = sampler.draw([options.prompt] * options.count, options.seed)
    columns = math.ceil(math.sqrt(options.count))
    write_png(options.out, image_grid(images, columns, options.scale, _GAP))
    print(options.out)


def _caption(options: argparse.Namespace) -> None:
    from unimod_jax.data import load_png
    from unimod_jax.evaluation import Sampler, open_run

    trained = open_run(options.run)
    image = load_png(options.image, trained.experiment.data)
    print(Sampler(trained, batch_size=1).caption([image])[0])


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is too small; give 1 or more")
    return number


def _seed(text: str) -> int:
    if not 0 <= (number := int(text)) < 2**32:
        raise argparse.ArgumentTypeError(f"{number} is not in [0, 2**32)")
    return number


if __name__ == "__main__":
    keep_compiled_programs()
    main()
