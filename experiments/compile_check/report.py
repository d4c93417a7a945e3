"""What a check found: a table for people, JSON for programs."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from unimod_jax.parallel.roofline import Roofline

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclasses.dataclass(frozen=True)
class Remedy:
    """An option that would make a step fit.

    Attributes:
      option: as on the command line, or the chips to take.
      bytes_needed: of one chip with it.
      is_compiled: whether the compiler said so; otherwise it is arithmetic on the bytes
        of the step that does not fit.
    """

    option: str
    bytes_needed: int
    is_compiled: bool


@dataclasses.dataclass(frozen=True)
class Report:
    """A compiled step.

    Attributes:
      experiment: its name.
      topology: as it was named.
      num_chips: of the topology.
      mesh: axis -> devices.
      accumulation_steps: parts that a step's rows are taken in.
      options: what the check chose, as options to train with.
      quick: whether the compiler made the least effort.
      hbm_bytes_per_chip: what the maker says.
      usable_bytes_per_chip: less a stated reserve.
      bytes_per_chip: "parameters", "optimizer", "batch", "activations" (with all other
        temporaries and the program itself) and their "total".
      flops_per_chip: useful FLOPs of a step.
      collective_bytes_per_chip: kind -> bytes sent in a step; None where the compiler
        refused the step, so that there is no program to read.
      roofline: of a step; None where there is no program.
      fits: whether the total is within what is usable.
      compile_seconds: trace and compilation.
      remedy: what would make it fit, if it does not.
    """

    experiment: str
    topology: str
    num_chips: int
    mesh: Mapping[str, int]
    accumulation_steps: int
    options: tuple[str, ...]
    quick: bool
    hbm_bytes_per_chip: int
    usable_bytes_per_chip: int
    bytes_per_chip: Mapping[str, int]
    flops_per_chip: float
    collective_bytes_per_chip: Mapping[str, int] | None
    roofline: Roofline | None
    fits: bool
    compile_seconds: float
    remedy: Remedy | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values; a step without a program has no time."""
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("roofline", "remedy")
        }
        line = self.roofline
        return fields | {
            "options": list(self.options),
            "remedy": dataclasses.asdict(self.remedy) if self.remedy else None,
            "roofline_step_seconds": line.step_seconds if line else None,
            "roofline": {
                "compute_seconds": line.compute_seconds,
                "hbm_seconds": line.hbm_seconds,
                "collective_seconds": line.collective_seconds,
                "slowest": line.slowest,
                "utilisation": line.utilisation,
                "tokens_per_second_per_chip": line.tokens_per_second_per_chip,
            }
            if line
            else None,
        }

    def verdict(self) -> str:
        """One sentence: fits or does not, the bytes needed, and what would help."""
        needed = _bytes(self.bytes_per_chip["total"])
        usable = _bytes(self.usable_bytes_per_chip)
        if self.fits:
            return (
                f"{self.experiment} fits on {self.topology}: a chip needs {needed} of "
                f"the {usable} that it can use."
            )
        sentence = (
            f"{self.experiment} does not fit on {self.topology}: a chip needs {needed} "
            f"but can use {usable}"
        )
        if self.remedy is None:
            return f"{sentence}; nothing that this command knows would make it fit."
        how = "compiled" if self.remedy.is_compiled else "an estimate"
        return (
            f"{sentence}; with {self.remedy.option} it would need "
            f"{_bytes(self.remedy.bytes_needed)} ({how})."
        )

    def table(self) -> list[str]:
        """Lines to print."""
        return [*self._lines(), "", self.verdict()]

    def _lines(self) -> Iterator[str]:
        axes = ", ".join(f"{name} {size}" for name, size in self.mesh.items())
        yield f"{self.experiment} on {self.topology}, {self.num_chips} chips ({axes})"
        if self.options:
            yield f"chosen; train with: {' '.join(self.options)}"
        yield ""
        yield "memory of a chip"
        for name, size in self.bytes_per_chip.items():
            yield _line(name, _bytes(size))
        yield _line(
            "usable",
            f"{_bytes(self.usable_bytes_per_chip)} of "
            f"{_bytes(self.hbm_bytes_per_chip)}",
        )
        yield ""
        yield "a step of a chip"
        yield _line("useful FLOPs", f"{self.flops_per_chip:.3g}")
        for kind, size in (self.collective_bytes_per_chip or {}).items():
            yield _line(f"{kind}, sent", _bytes(size))
        if (line := self.roofline) is not None:
            yield from _roofline_lines(line)
        effort = " with the least effort" if self.quick else ""
        yield _line("compiled in", f"{self.compile_seconds:.0f} s{effort}")


def _roofline_lines(line: Roofline) -> Iterator[str]:
    yield ""
    yield "roofline: the slowest of three that overlap perfectly, each at its peak"
    yield _line("compute", f"{line.compute_seconds * 1e3:.3g} ms")
    yield _line("memory", f"{line.hbm_seconds * 1e3:.3g} ms")
    yield _line("collectives", f"{line.collective_seconds * 1e3:.3g} ms")
    yield _line("step", f"{line.step_seconds * 1e3:.3g} ms, limited by {line.slowest}")
    yield _line("utilisation", f"{line.utilisation:.0%} at most")
    yield _line("tokens", f"{line.tokens_per_second_per_chip:,.0f} a second and chip")


def _line(name: str, value: str) -> str:
    return f"  {name:<26}{value:>14}"


def _bytes(count: float) -> str:
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"
