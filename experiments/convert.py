"""Converts released models, both ways.

python -m experiments.convert show-o DIR --image-tokenizer VQ --out runs/show_o
python -m experiments.convert phi DIR --image-tokenizer VQ --out runs/phi
python -m experiments.convert emu3 DIR --out runs/emu3 --towers copy --plan unimod
python -m experiments.convert chameleon --from-hub facebook/chameleon-7b --out runs/c7b
python -m experiments.convert export RUN --out DIR

The result opens like a run: `experiments.sample` draws and describes with it, and
`experiments.train EXPERIMENT --start-from RUN` goes on from its weights. Dotted options
such as --model.compute_dtype float32 change its experiment. Phi-1.5 becomes the Show-o
whose training begins from it, and is exported as one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import one_sentence_errors, override, show_log

_FAMILIES = ("show-o", "phi", "emu3", "chameleon")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; prints the path of what it wrote."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    show_log()
    with one_sentence_errors():
        if options.family == "export":
            if rest:
                parser.error(f"unrecognized arguments: {' '.join(rest)}")
            _export(options)
        else:
            _convert(options, rest)
        print(options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    families = parser.add_subparsers(dest="family", required=True)
    for name in _FAMILIES:
        _add_family(families.add_parser(name, allow_abbrev=False))
    export = families.add_parser("export", allow_abbrev=False)
    export.add_argument("path", metavar="RUN", type=Path, help="a run to export")
    export.add_argument("--out", type=Path, required=True, help="a new folder")
    export.add_argument("--tower", help="whose weights, where towers differ: text, ...")
    return parser


def _add_family(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "path",
        metavar="PATH",
        type=Path,
        nargs="?",
        help="a .safetensors file, an index of shards, or their folder",
    )
    source.add_argument("--from-hub", metavar="NAME", help="download from the hub")
    parser.add_argument("--out", type=Path, required=True, help="a new run directory")
    parser.add_argument(
        "--image-tokenizer", type=Path, help="its file or folder, if it is apart"
    )
    parser.add_argument(
        "--text-tokenizer", type=Path, help="its file or folder, if it is apart"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="of a side of its images (default: what it was trained on)",
    )
    parser.add_argument(
        "--towers", choices=["copy"], help="one tower a modality, each a copy"
    )
    parser.add_argument(
        "--plan", choices=["unimod"], help="route tasks as the paper does"
    )


def _convert(options: argparse.Namespace, rest: Sequence[str]) -> None:
    from unimod_jax.released_models import (
        FAMILIES,
        PublishedFiles,
        WarmStart,
        convert_model,
    )

    path = options.path if options.from_hub is None else _downloaded(options.from_hub)
    convert_model(
        FAMILIES[options.family],
        PublishedFiles(path, options.image_tokenizer, options.text_tokenizer),
        options.out,
        WarmStart(options.towers == "copy", options.plan == "unimod"),
        options.image_size,
        lambda experiment: override(
            experiment, rest, f"python -m experiments.convert {options.family} PATH"
        ),
    )


def _downloaded(name: str) -> Path:
    """The folder of a repository on the hub, downloaded once."""
    import huggingface_hub

    from unimod_jax.training import RunError

    wanted = ["*.safetensors", "*.json", "*.tiktoken", "*.txt"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    # Refused, not found and not reachable are of different libraries.
    except Exception as error:
        raise RunError(
            f"{name} cannot be downloaded ({type(error).__name__}); check the name and "
            "the network, or download it elsewhere and give its folder."
        ) from error


def _export(options: argparse.Namespace) -> None:
    from unimod_jax.evaluation import open_run
    from unimod_jax.released_models import export_model

    trained = open_run(options.path)
    params, spec = trained.variables["params"], trained.assembly.spec
    export_model(trained.run, params, spec, options.out, options.tower)


if __name__ == "__main__":
    main()
