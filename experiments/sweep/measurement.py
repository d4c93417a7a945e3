"""What is done at a point, by a process of its own, and what came of it.

A compile check needs no accelerator; its JSON object is the point's result, and its
exit status says whether the step fits. The figures of a short run are the last row of
its metrics.jsonl; seconds and rates are the medians of all rows but the first, which
has the compilation in it.
"""

import json
import math
import re
import signal
import statistics
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import traverse_util

from experiments.sweep.processes import Ended
from unimod_jax.training.metric_writer import read_metrics

LOG = "log.txt"
"""File in a point's folder: what its process wrote."""

RESULT = {"--json": "compile_check.json", "--run-dir": "run"}
"""Option of a command -> what it writes in a point's folder."""

_LAST_BYTES, _LONGEST_ERROR = 65_536, 600
_DOES_NOT_FIT, _RUN_AGAIN = 3, (75, 76)
"""Exit codes of a check, and of a run that saved or lost another process."""

_SENT, _NEEDED, _GB = "collective_bytes_per_chip", "bytes_per_chip", 1e9
_MEDIANS = ("step_seconds", "tokens_per_second", "input_wait_share")
_KEPT = re.compile(r"kept/layer_\d+/(.+)")

type Figures = Mapping[str, float | bool | str]


class Outcome(NamedTuple):
    """What came of a point: it is done, does not fit (a result too), or failed.

    Figures have dotted names; the error is a sentence for all but "done". There is no
    exit code where no process was started, and a negative one is a signal's.
    """

    status: str
    figures: Figures
    error: str | None = None
    exit_code: int | None = None
    seconds: float | None = 0.0


class Shown(NamedTuple):
    """A figure as tables and charts show it, in a unit, maybe beside its limit."""

    figure: str
    title: str
    unit: float = 1.0
    limit: str = ""

    def value(self, figures: Figures, of_limit: bool = False) -> float | None:
        """The figure, or its limit, in the unit shown; None where there is none."""
        value = figures.get(self.limit if of_limit else self.figure)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value / self.unit


_SHOWN = (
    Shown("loss", "loss"),
    Shown("step_seconds", "seconds per step"),
    Shown("tokens_per_second", "tokens per second"),
    Shown(f"{_NEEDED}.total", "GB per chip", _GB, f"usable_{_NEEDED}"),
    Shown("roofline_step_seconds", "roofline seconds per step"),
    Shown("roofline.tokens_per_second_per_chip", "roofline tokens per second and chip"),
    Shown("roofline.utilisation", "roofline utilisation"),
    Shown(f"{_NEEDED}.parameters", "parameters, GB per chip", _GB),
    Shown(f"{_NEEDED}.optimizer", "optimizer, GB per chip", _GB),
    Shown(f"{_NEEDED}.activations", "activations, GB per chip", _GB),
    Shown("flops_per_chip", "TFLOP per chip and step", 1e12),
    Shown(f"{_SENT}.total", "collectives, GB per chip and step", _GB),
)


def shown(names: Iterable[str]) -> list[Shown]:
    """Figures for tables and charts, of all there are, but not layer by layer."""
    found = sorted(names)
    tasks = [name for name in found if re.fullmatch("[^/]+/loss", name)]
    tasks += [x for x in found if x.startswith("kept/") and not _KEPT.fullmatch(x)]
    ours = [one for one in _SHOWN if one.figure in found]
    return ours + [Shown(x, x.replace("_", " ").replace("/", ", ")) for x in tasks]


def summary(figures: Figures) -> str:
    """The first figures of a point in a few words."""
    first = shown(figures)[:2]
    return ", ".join(f"{one.title} {one.value(figures):.3g}" for one in first)


def read_check(ended: Ended, folder: Path) -> Outcome | None:
    """What came of a compile check in a point's folder."""
    if ended.timed_out or ended.exit_code not in (0, _DOES_NOT_FIT):
        return _failed(ended, folder)
    fits, file = ended.exit_code == 0, folder / RESULT["--json"]
    try:
        figures = flat(dict(json.loads(file.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError):
        figures = {}
    if fits and figures.get("fits") is not True:
        return _failed(ended, folder, f"it ended well but wrote no result to {file}.")
    if sent := [float(x) for k, x in figures.items() if k.startswith(f"{_SENT}.")]:
        figures = {f"{_SENT}.total": sum(sent)} | figures
    status, error = ("done", None) if fits else ("does not fit", last_error(folder))
    return Outcome(
        status, figures | {"fits": fits}, error, ended.exit_code, ended.seconds
    )


def read_run(ended: Ended, folder: Path) -> Outcome | None:
    """What came of a run; None if it was stopped from outside and has to go on."""
    if ended.exit_code in _RUN_AGAIN and not ended.timed_out:
        return None
    if ended.exit_code or ended.timed_out:
        return _failed(ended, folder)
    file = folder / RESULT["--run-dir"] / "metrics.jsonl"
    rows = read_metrics(file) if file.exists() else []
    rows = [row for row in rows if isinstance(row, dict) and "loss" in row]
    if not rows:
        return _failed(ended, folder, f"it ended well but wrote no loss to {file}.")
    figures, kept = dict(rows[-1]), dict[str, list[float]]()
    for name in _MEDIANS:
        if values := [row[name] for row in rows[1:] or rows if name in row]:
            figures[name] = statistics.median(values)
    for name, value in rows[-1].items():
        if match := _KEPT.fullmatch(name):
            kept.setdefault(f"kept/{match[1]}", []).append(value)
    figures |= {name: statistics.fmean(values) for name, values in kept.items()}
    return Outcome("done", flat(figures), None, ended.exit_code, ended.seconds)


def _failed(ended: Ended, folder: Path, why: str | None = None) -> Outcome:
    """The outcome of a process that did not do what it should have."""
    code = ended.exit_code
    if ended.timed_out:
        why = f"it took longer than {ended.seconds:.0f} s; raise --timeout."
    elif why is None and code < 0:
        why = f"it was ended by signal {-code}"
        why += " (out of memory?)" if code == -signal.SIGKILL else ""
        why += f"; see {folder / LOG}."
    why = why or last_error(folder) or f"it ended with status {code}, silently."
    return Outcome("failed", {}, why, ended.exit_code, ended.seconds)


def last_error(folder: Path) -> str | None:
    """The last sentence of a point's log that reports an error, or its last line."""
    with (folder / LOG).open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _LAST_BYTES))
        printed = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in reversed(printed.splitlines())]
    errors = [x.removeprefix("error: ") for x in lines if x.startswith("error: ")]
    for told in (*errors, *(x for x in lines if any(map(str.isalnum, x)))):
        return textwrap.shorten(told, _LONGEST_ERROR, placeholder=" ...")
    return None


def flat(tree: Mapping[str, Any]) -> dict[str, float | bool | str]:
    """Numbers, truths, texts and lists (as texts) of nested objects, by dotted names.

    Numbers that are not finite are left out: JSON has none.
    """
    leaves = traverse_util.flatten_dict(dict(tree), sep=".").items()
    told = {k: " ".join(map(str, x)) if isinstance(x, list) else x for k, x in leaves}
    return {
        name: x
        for name, x in told.items()
        if isinstance(x, str) or (isinstance(x, int | float) and math.isfinite(x))
    }
