"""What a compiled step sends from chip to chip, read from its optimised program.

XLA's own cost analysis meets a loop's body once; here a loop counts as often as it
runs, loops in loops multiply, and of a switch's branches the mean counts, which is
exact for the layers of a ramp, where each layer takes another branch.

Bytes are what a chip sends with ring algorithms over a group of n chips, where `whole`
is the array that the group has together:

    all-gather, reduce-scatter, all-to-all    whole * (n - 1) / n
    all-reduce                            2 * whole * (n - 1) / n
    collective-permute, -broadcast            whole
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)

_BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[^\s(]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[^\s=]+) = (?P<rest>.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([^\s,}]+)")


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """One line of a computation.

    Attributes:
      name: without its percent sign.
      shape: of its result, as written.
      kind: its opcode.
      rest: operands and attributes, as written.
    """

    name: str
    shape: str
    kind: str
    rest: str

    def names(self, attribute: str) -> list[str]:
        """Computations that an attribute names: one, or several in braces."""
        found = re.search(rf"\b{attribute}=(?:%?([^\s,{{}}]+)|{{([^}}]*)}})", self.rest)
        if found is None:
            return []
        return [name.strip(" %") for name in (found[1] or found[2]).split(",")]


def collective_bytes(program: str, num_devices: int) -> dict[str, int]:
    """Bytes that each device sends in one run, by kind of collective.

    Args:
      program: text of a compiled program (`jax.stages.Compiled.as_text`).
      num_devices: that it runs on: a collective without groups is among all.

    Returns:
      Kind -> bytes, for the kinds that occur, largest first.
    """
    computations, entry = _computations(program)

    @functools.cache
    def sent(name: str) -> Mapping[str, float]:
        total: dict[str, float] = collections.defaultdict(float)
        for instruction in computations.get(name, ()):
            own = _own_bytes(instruction, num_devices)
            if own is not None:
                total[own[0]] += own[1]
                continue
            for called, times in _calls(instruction, computations):
                for kind, count in sent(called).items():
                    total[kind] += times * count
        return total

    found = {kind: round(count) for kind, count in sent(entry).items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _computations(program: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Name -> instructions of every computation, and the name of the first to run."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", []
    for line in program.splitlines():
        if (header := _HEADER.match(line)) and not line.startswith(" "):
            current = computations[header["name"]] = []
            entry = header["name"] if header["entry"] else entry
        elif found := _INSTRUCTION.match(line):
            current.append(_instruction(found["name"], found["rest"]))
    return computations, entry


def _instruction(name: str, rest: str) -> _Instruction:
    """Takes "shape opcode(operands), attributes" apart; tuple shapes have spaces."""
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    kind, _, rest = rest.partition("(")
    return _Instruction(name, shape, kind, rest)


def _closing(text: str) -> int:
    """The index of the parenthesis that closes the first."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    return len(text) - 1


def _calls(
    instruction: _Instruction, computations: Mapping[str, list[_Instruction]]
) -> Iterator[tuple[str, float]]:
    """Computations that an instruction runs, and how often."""
    if instruction.kind.endswith(("-done", "-update")):
        return  # what has begun is counted where it began
    if instruction.kind == "while":
        times = _trip_count(instruction, computations)
        for name in instruction.names("body") + instruction.names("condition"):
            yield name, times
        return
    if instruction.kind == "conditional":
        branches = instruction.names("branch_computations") or [
            *instruction.names("true_computation"),
            *instruction.names("false_computation"),
        ]
        for name in branches:
            yield name, 1.0 / len(branches)
        return
    for name in _CALLED.findall(instruction.rest):
        yield name, 1.0


def _trip_count(
    loop: _Instruction, computations: Mapping[str, list[_Instruction]]
) -> int:
    """How often a loop runs: as XLA notes it, else its condition's bound.

    Every loop of a training step is a scan from 0 to a constant. What has neither runs
    once for all that can be known.
    """
    if noted := re.search(r'"?known_trip_count"?:\{"n":"(\d+)"', loop.rest):
        return int(noted[1])
    (condition,) = loop.names("condition")
    bounds = [
        int(found[1])
        for instruction in computations.get(condition, ())
        if instruction.kind == "constant"
        and instruction.shape.startswith(("s32[]", "s64[]", "u32[]"))
        and (found := re.match(r"(\d+)\)", instruction.rest))
    ]
    return max(bounds, default=1)


def _own_bytes(instruction: _Instruction, num_devices: int) -> tuple[str, float] | None:
    """Kind and bytes of a collective; None for any other instruction."""
    kind = instruction.kind.removesuffix("-start")
    if kind not in KINDS:
        return None
    arrays = _arrays(instruction.shape)
    if kind == "collective-permute":
        # The start of one has (what is sent, what is received, two signals).
        is_start = instruction.kind.endswith("-start")
        return kind, float(arrays[1] if is_start else sum(arrays))
    if kind == "all-gather" and instruction.kind.endswith("-start"):
        arrays = arrays[len(arrays) // 2 :]  # (operands, results)
    size = _group_size(instruction.rest, num_devices)
    whole = sum(arrays) * (size if kind == "reduce-scatter" else 1)
    if kind in ("collective-broadcast", "ragged-all-to-all"):
        return kind, float(whole)
    share = (size - 1) / size
    return kind, whole * share * (2 if kind == "all-reduce" else 1)


def _arrays(shape: str) -> list[int]:
    """Bytes of each array of a shape; a tuple has several."""
    return [
        math.prod(int(size.lstrip("<=")) for size in axes.split(",") if size)
        * _bits(dtype)
        // 8
        for dtype, axes in _ARRAY.findall(shape)
    ]


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    # f8e4m3fn, bf16, s32, c64: the first number is the width.
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0


def _group_size(attributes: str, num_devices: int) -> int:
    """How many devices take part in each group of a collective.

    Groups are written out, {{0,1},{2,3}}, or as an array of device numbers of that
    shape, [2,2]<=[4], or named by the axes of a mesh, mesh['a'=2,'b'=4] {'b'}.
    """
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(found[1])
    if found := re.search(
        r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes
    ):
        sizes = dict(re.findall(r"['\"]?(\w+)['\"]?=(\d+)", found[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"\w+", found[2]))
    return num_devices
