"""Draws images for a prompt, or captions an image, with a trained run.

python -m experiments.sample RUN --prompt "a handwritten seven" --out seven.png
python -m experiments.sample RUN --image scan.png another.png
python -m experiments.sample RUN --image cat.png --question "What colour is it?"

RUN is a training run or a converted model. Prompts and images go through in batches.
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
_WIDTH = 128
"""Pixels that an image is enlarged to, where it is smaller."""
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
    what.add_argument(
        "--prompt", nargs="+", metavar="TEXT", help="draw images of these texts"
    )
    what.add_argument(
        "--image",
        nargs="+",
        metavar="PNG",
        type=Path,
        help="print a caption of each, a line each",
    )
    parser.add_argument(
        "--question", help="what to ask about images, of models that are asked"
    )
    parser.add_argument(
        "--count", type=_positive, default=16, help="images of each text (default: 16)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("sample.png"),
        help="where to write the grid of images (default: sample.png)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="another seed, other images; other captions, of models that draw those by "
        "chance (default: 0)",
    )
    parser.add_argument(
        "--scale",
        type=_positive,
        help="enlargement (default: what makes small images about 128 pixels wide)",
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

    check_writable(options.out, "the image")
    prompts = [prompt for prompt in options.prompt for _ in range(options.count)]
    sampler = Sampler(
        open_run(options.run), batch_size=min(len(prompts), _LARGEST_BATCH)
    )
    images = sampler.draw(prompts, options.seed)
    one = len(options.prompt) == 1
    columns = math.ceil(math.sqrt(options.count)) if one else options.count
    scale = options.scale or max(1, _WIDTH // images.shape[2])
    write_png(options.out, image_grid(images, columns, scale, _GAP))
    print(options.out)


def _caption(options: argparse.Namespace) -> None:
    from unimod_jax.evaluation import Sampler, open_run

    trained = open_run(options.run)
    images = [trained.codec.read_picture(path) for path in options.image]
    sampler = Sampler(trained, batch_size=min(len(images), _LARGEST_BATCH))
    asked = [options.question] * len(images) if options.question else ()
    for caption in sampler.caption(images, asked, options.seed):
        print(caption)


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
