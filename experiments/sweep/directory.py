"""A sweep's directory: what is where, and the refusal to mix two sweeps in one.

sweep.json               what is swept: experiment, topology, axes, configuration
points/NAME/result.json  what came of a point, written whole or not at all
points/NAME/log.txt      what its process wrote
points/NAME/run          of a short run: its run directory
results.csv, results.json, report.html
"""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.sweep.measurement import Outcome
from experiments.sweep.plan import Point
from unimod_jax.training import RunError
from unimod_jax.training.run_directory import write_atomically

_ABSENT = "not given"


@dataclasses.dataclass(frozen=True)
class SweepDirectory:
    """Paths inside a sweep's directory, and what is read and written there."""

    path: Path

    @property
    def identity(self) -> Path:
        """What is swept."""
        return self.path / "sweep.json"

    @property
    def csv(self) -> Path:
        """One line per point."""
        return self.path / "results.csv"

    @property
    def json(self) -> Path:
        """One object per point."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """The table and the charts."""
        return self.path / "report.html"

    def folder(self, point: Point) -> Path:
        """Of a point's own."""
        return self.path / "points" / point.name

    def log(self, point: Point) -> Path:
        """What a point's process wrote."""
        return self.folder(point) / "log.txt"

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Writes what is swept, or checks that it is what was swept here before.

        Args:
          identity: a JSON object; `configuration` has the experiment before options.

        Raises:
          RunError: naming what differs, or that the directory is something else.
        """
        if not self.identity.exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise RunError(
                    f"{self.path} is not empty and not the directory of a sweep; "
                    "choose another --out."
                )
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.identity, json.dumps(identity, indent=2) + "\n")
        before = _by_name(self._read_identity())
        now = _by_name(json.loads(json.dumps(identity)))
        differing = [
            f"{name} is {before.get(name, _ABSENT)!r} there but "
            f"{now.get(name, _ABSENT)!r} here"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if differing:
            raise RunError(
                f"{self.path} belongs to another sweep ({'; '.join(differing)}); "
                "choose another --out, or give the same options."
            )

    def _read_identity(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.identity.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise RunError(
                f"{self.identity} cannot be read; restore it or choose another --out."
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Keeps other sweeps out of a claimed directory; yields the lock's descriptor.

        A process that inherits it keeps them out for as long as it lives.

        Raises:
          RunError: if another sweep, or what is left of one, is at work here.
        """
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"another sweep, or a process that one left behind, is at work in "
                    f"{self.path}; wait for it, or stop it."
                ) from None
            yield lock.fileno()

    def write(self, point: Point, outcome: Outcome) -> None:
        """Keeps what came of a point."""
        self.folder(point).mkdir(parents=True, exist_ok=True)
        text = json.dumps(record(point, outcome), indent=2, allow_nan=False) + "\n"
        write_atomically(self.folder(point) / "result.json", text)

    def read(self, point: Point) -> Outcome | None:
        """What came of a point; None if it is not known, or was that of another."""
        try:
            text = (self.folder(point) / "result.json").read_text(encoding="utf-8")
            kept = json.loads(text)
            names = [field.name for field in dataclasses.fields(Outcome)]
            outcome = Outcome(**{name: kept[name] for name in names})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return outcome if kept["values"] == dict(point.values) else None


def record(point: Point, outcome: Outcome) -> dict[str, Any]:
    """A point and what came of it as one JSON object."""
    return {
        "point": point.name,
        "values": dict(point.values),
        **dataclasses.asdict(outcome),
    }


def _by_name(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, with dotted names; the configuration's are its own."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, branch in tree.items():
        name = "" if key == "configuration" else f"{prefix}.{key}" if prefix else key
        flat |= _by_name(branch, name)
    return flat
