"""Writes what a run was trained to write: images, texts and speech.

python -m experiments.sample RUN --prompt "a handwritten seven" --out seven.png
python -m experiments.sample RUN --image scan.png another.png
python -m experiments.sample RUN --image cat.png --question "What colour is it?"
python -m experiments.sample RUN --task NAME --part image=scan.png --part question_1=...

The last form fills one row of any task: --part PIECE=VALUE gives a text, a picture's
file, or speech units ("3 17 4"); what the row is to be written is printed, piece by
piece, and an image goes to --out.

RUN is a training run or a converted model. Prompts and images go through in batches.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import (
    keep_compiled_programs,
    one_sentence_errors,
    show_log,
)

if TYPE_CHECKING:
    from unimod_jax.data import Value
    from unimod_jax.evaluation import TrainedRun
    from unimod_jax.layout import TaskLayout

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
        "--part",
        action="append",
        metavar="PIECE=VALUE",
        help="fill a piece of one row of a task; may be repeated",
    )
    what.add_argument(
        "--image",
        nargs="+",
        metavar="PNG",
        type=Path,
        help="print a caption of each, a line each",
    )
    parser.add_argument(
        "--task", help="which task, where several would do, or none is the obvious one"
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
    _run(parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    show_log()
    with one_sentence_errors():
        if options.prompt is not None:
            _draw(options)
        elif options.part is not None:
            _fill_row(options)
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
    images = sampler.draw(prompts, options.seed, options.task)
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
    for caption in sampler.caption(images, asked, options.seed, options.task):
        print(caption)


def _fill_row(options: argparse.Namespace) -> None:
    from unimod_jax.evaluation import Sampler, check_writable, open_run, write_png
    from unimod_jax.training import RunError

    check_writable(options.out, "the image")
    trained = open_run(options.run)
    layouts = trained.assembly.layouts
    if options.task is None and len(layouts) > 1:
        raise RunError(f"{options.run} has the tasks {sorted(layouts)}; give --task.")
    layout = trained.layout(options.task or next(iter(layouts)))
    given = dict(_given(part, layout, trained) for part in options.part)
    (row,) = Sampler(trained, batch_size=1).write(layout.task, [given], options.seed)
    for name, value in row.items():
        if isinstance(value, str):
            print(f"{name}: {value}")
        elif isinstance(value, tuple):
            print(f"{name}: {' '.join(map(str, value))}")
        else:
            write_png(options.out, value)
            print(f"{name}: {options.out}")


def _given(
    part: str, layout: "TaskLayout", trained: "TrainedRun"
) -> "tuple[str, Value]":
    """A piece of the row and its value, from PIECE=VALUE."""
    from unimod_jax.data import Image
    from unimod_jax.training import RunError

    name, equals, text = part.partition("=")
    pieces = {s.name: s.modality for s in layout.segments if s.part}
    if not equals or name not in pieces:
        raise RunError(
            f"--part {part!r} names no piece of task {layout.task!r}; write "
            f"PIECE=VALUE with one of {sorted(pieces)}."
        )
    if pieces[name] == "image":
        return name, Image(trained.codec.read_picture(Path(text)))
    if pieces[name] == "speech":
        if not all(unit.isdecimal() for unit in text.split()) or not text.split():
            raise RunError(
                f"--part {part!r} is not speech; give units such as '3 17 4'."
            )
        return name, tuple(map(int, text.split()))
    return name, text


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
