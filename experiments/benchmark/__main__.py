"""Times what the ideas cost, in ratios: `python -m experiments.benchmark --suite NAME`.

Contenders take turns in one process (or in one per framework), on random data; warm-up
and compilation do not count. Figures are ratios, ours over theirs or routed over dense;
the absolutes are in the records of the JSON file.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.plots import plot_figures
from experiments.benchmark.results import (
    machine,
    read_results,
    text_table,
    with_table,
    write_results,
)
from experiments.benchmark.suite import Setting, Suite, SuiteResult

_MODULE = "experiments.benchmark"
_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}

SECONDS = {
    "routing": 120.0,
    "towers": 135.0,
    "peers": 60.0,
    "compile": 90.0,
    "input": 30.0,
    "utilisation": 30.0,
}
"""About how long each suite times steps; the compilation of steps comes on top."""

LIMIT_SECONDS = {"cpu": 780.0, "gpu": 420.0, "tpu": 420.0}
"""No suite is begun after so long: accelerators are lent by the minute."""


def suite_named(name: str) -> Suite:
    """The function of a suite; imported late, after the platform is chosen."""
    from experiments.benchmark.compiling import compile_suite
    from experiments.benchmark.input_wait import input_suite
    from experiments.benchmark.peers import peers_suite
    from experiments.benchmark.routing import routing_suite
    from experiments.benchmark.towers import towers_suite
    from experiments.benchmark.utilisation import utilisation_suite

    return {
        "routing": routing_suite,
        "towers": towers_suite,
        "peers": peers_suite,
        "compile": compile_suite,
        "input": input_suite,
        "utilisation": utilisation_suite,
    }[name]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for; see --help."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    # PyTorch takes turns on the same GPU and needs memory of its own.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    status = 0
    try:
        if options.suite is None:
            results = read_results(_required(options.json))
        else:
            results = _measured(options, arguments)
            if options.json:
                write_results(options.json, results)
        print(text_table(results["figures"], results["records"]))
        if results.get("not_run"):
            status = 1
        if options.plot:
            title = f"{results['device_kind']}, {results['date'][:10]}"
            plot_figures(results["figures"], title, options.plot)
        if options.readme:
            _write_table(options.readme, _required(options.json), results["figures"])
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    if status:
        raise SystemExit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_MODULE}", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--suite",
        choices=[*SECONDS, "all"],
        help="what to time; without it, --json is read and shown",
    )
    parser.add_argument("--device", choices=_PLATFORMS, help="default: JAX's own")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--plot", type=Path, help="draw the figures into this image")
    parser.add_argument(
        "--readme", type=Path, help="put the table of --json into this file"
    )
    parser.add_argument(
        "--torch-python", type=Path, help="an interpreter that has PyTorch, for peers"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes and few samples: a check"
    )
    return parser


def _write_table(readme: Path, json: Path, figures: Mapping[str, float]) -> None:
    text = readme.read_text(encoding="utf-8")
    readme.write_text(with_table(text, json.as_posix(), figures), encoding="utf-8")


def _required(json: Path | None) -> Path:
    if json is None:
        raise ValueError("name a --suite to run, or a --json file to show.")
    return json


def _measured(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    import jax

    from pallas_kernels.benchmark.provenance import provenance
    from pallas_kernels.device import current_device

    if options.device:
        jax.config.update("jax_platforms", _PLATFORMS[options.device])
    names = list(SECONDS) if options.suite == "all" else [options.suite]
    platform = current_device().platform
    setting = Setting(platform, 0.0, options.quick, options.torch_python, _say)
    return {
        **provenance(_MODULE, arguments),
        **machine(),
        **run_suites({name: suite_named(name) for name in names}, setting),
    }


def run_suites(suites: Mapping[str, Suite], setting: Setting) -> dict[str, Any]:
    """Runs suites one after another; one that fails does not stop the rest.

    Args:
      suites: name, of `SECONDS`, -> suite.
      setting: of all of them, but for the seconds that each has.

    Returns:
      `suite_seconds`, compilation and all; `not_run`, suite -> why it has no figures;
      `figures` and `records` of the others.
    """
    start, seconds, not_run = time.monotonic(), {}, {}
    result = SuiteResult([], {})
    for name, suite in suites.items():
        spent = time.monotonic() - start
        if spent > LIMIT_SECONDS[setting.platform]:
            not_run[name] = f"left out after {spent:.0f} s; run --suite {name} alone."
            setting.say(f"{name}: {not_run[name]}")
            continue
        share = 0.0 if setting.quick else SECONDS[name]
        try:
            records, figures = suite(dataclasses.replace(setting, seconds=share))
        except Exception as failure:
            not_run[name] = f"{type(failure).__name__}: {failure}"
            setting.say(f"{name}: failed, {not_run[name]}")
            continue
        seconds[name] = round(time.monotonic() - start - spent, 1)
        setting.say(f"{name}: done in {seconds[name]:.0f} s")
        named = [{"suite": name} | record for record in records]
        result = SuiteResult(result.records + named, result.figures | figures)
    return {
        "suite_seconds": seconds,
        "not_run": not_run,
        "figures": result.figures,
        "records": result.records,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
