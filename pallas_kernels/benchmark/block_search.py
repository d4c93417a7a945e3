"""The search for block sizes: one field at a time, candidates taking turns.

The three passes of attention are cut independently and timed apart as far as they are
apart: the output by itself, the gradient of q by itself, and those of k and v, where
XLA removes the kernel whose results nobody asks for. A kernel that makes all gradients
at once is timed as a whole in both.
"""

import functools
import typing
from collections.abc import Callable, Mapping, Sequence

import jax

from pallas_kernels.benchmark.contenders import (
    RESULTS,
    TOLERANCE,
    Problem,
    largest_errors,
    with_gradients,
)
from pallas_kernels.benchmark.timing import Budget, Run, take_turns
from pallas_kernels.device import current_device
from pallas_kernels.routed_attention.block_sizes import Blocks, BlockSizes

# A candidate replaces the best one only if it is this much faster: medians of the same
# kernel differ by a percent from one run to the next.
LEAST_GAIN = 0.02

# How often every field is tried again around the best of the others.
_MOST_SWEEPS = 2

# Which of out, dq, dk and dv a pass makes.
_RESULTS_OF = {
    "forward": slice(0, 1),
    "query_gradient": slice(1, 2),
    "key_gradient": slice(2, 4),
}

Seconds = dict[Blocks, float]
Values = Mapping[str, Sequence[int]]
"""Field of `Blocks` -> the values to try."""


def search(
    start: Blocks,
    values: Values,
    measure: Callable[[Sequence[Blocks]], Seconds],
) -> tuple[Blocks | None, Seconds]:
    """Vary one field at a time, keep what is clearly faster, and go round once more.

    Args:
      start: where to begin; it need not run.
      values: what to try of each field, in the order of the fields to vary.
      measure: times candidates against each other; those that do not run are missing.

    Returns:
      The best, or None if nothing ran, and the latest seconds of all that did.
    """
    best, measured = start, {}
    for _ in range(_MOST_SWEEPS):
        before = best
        for field, options in values.items():
            others = [best._replace(**{field: value}) for value in options]
            group = list(dict.fromkeys([best, *others]))
            seconds = measure(group)
            measured |= seconds
            if not seconds:
                continue
            fastest = min(seconds, key=seconds.__getitem__)
            to_beat = seconds.get(best, float("inf")) * (1 - LEAST_GAIN)
            if seconds[fastest] < to_beat:
                best = fastest
        if best == before:
            break
    return (best if best in measured else None), measured


class BlockTimer:
    """Times one pass of an implementation with different blocks.

    Where one cut serves all passes, they are timed together.

    `measure` is what `search` asks for; `failures` keeps, for every candidate that did
    not run, the first line of why.
    """

    def __init__(
        self,
        function: Callable[..., jax.Array],
        problem: Problem,
        sizes: BlockSizes,
        which: str,
        budget: Budget,
        *,
        exact: tuple[jax.Array, ...],
        repeats: int = 7,
    ) -> None:
        self.failures: dict[Blocks, str] = {}
        self._function = function
        self._problem = problem
        self._sizes = sizes
        self._which = which
        self._budget = budget
        self._exact = exact
        self._repeats = repeats
        # On a CPU calls that are queued run side by side.
        self._sample_seconds = 0.0 if current_device().platform == "cpu" else 0.01
        self._runs: dict[Blocks, Run] = {}

    def measure(self, candidates: Sequence[Blocks]) -> Seconds:
        """Take turns; a spent budget compiles nothing new and drops repeats."""
        runs = {}
        for blocks in candidates:
            if blocks in self.failures:
                continue
            if blocks not in self._runs:
                if self._budget.is_spent:
                    self._budget.dropped.append(f"{self._which}: {blocks}")
                    continue
                try:
                    self._runs[blocks] = self._checked(blocks)
                except Exception as failure:
                    self.failures[blocks] = _first_line(failure)
                    continue
            runs[blocks] = self._runs[blocks]
        names = {str(blocks): blocks for blocks in runs}
        all_samples = take_turns(
            {name: runs[blocks] for name, blocks in names.items()},
            repeats=self._repeats,
            sample_seconds=self._sample_seconds,
            budget=self._budget,
        )
        seconds = {}
        for name, samples in all_samples.items():
            if samples.failure is not None:
                self.failures[names[name]] = _first_line(samples.failure)
            else:
                ordered = sorted(samples.seconds)
                seconds[names[name]] = ordered[len(ordered) // 2]
        return seconds

    def _checked(self, blocks: Blocks) -> Run:
        """Compile, run once, and compare: fast and wrong is no candidate."""
        run = self._run(blocks)
        results = run.start()
        run.wait(results)
        asked = slice(0, 4)
        if not takes_one_cut(self._function):
            asked = _RESULTS_OF[self._which]
        results = results if isinstance(results, tuple) else (results,)
        errors = largest_errors(
            results, self._exact[asked], self._problem.sees_BT, RESULTS[asked]
        )
        tolerance = TOLERANCE[str(self._problem.q_BTHE.dtype)]
        if not all(error <= tolerance for error in errors.values()):
            raise ArithmeticError(f"the results are wrong: errors {errors}")
        return run

    def _run(self, blocks: Blocks) -> Run:
        attend = cut(
            self._function,
            self._sizes._replace(**{self._which: blocks}),
            self._problem.scale,
        )
        qkv = (self._problem.q_BTHE, self._problem.k_BSGE, self._problem.v_BSGE)
        visibility, dout = self._problem.visibility, self._problem.dout_BTHE
        if takes_one_cut(self._function):
            both = jax.jit(functools.partial(with_gradients, attend))
            compiled = both.lower(*qkv, dout, *visibility).compile()
            return Run(lambda: compiled(*qkv, dout, *visibility), jax.block_until_ready)
        if self._which == "forward":
            compiled = jax.jit(attend).lower(*qkv, *visibility).compile()
            return Run(lambda: compiled(*qkv, *visibility), jax.block_until_ready)
        of_gradients = slice(0, 1) if self._which == "query_gradient" else slice(1, 3)
        forward = jax.jit(attend)
        _, pull_back = jax.vjp(lambda *qkv: forward(*qkv, *visibility), *qkv)
        gradients = jax.jit(lambda pull_back, dout: pull_back(dout)[of_gradients])
        compiled = gradients.lower(pull_back, dout).compile()
        return Run(lambda: compiled(pull_back, dout), jax.block_until_ready)


def cut(
    function: Callable[..., jax.Array], sizes: BlockSizes, scale: float
) -> Callable[..., jax.Array]:
    """The implementation of q, k, v and visibility alone, cut into these sizes.

    One that takes a single `Blocks` for all its passes gets that of the output.
    """
    blocks = sizes.forward if takes_one_cut(function) else sizes
    return functools.partial(function, scale=scale, blocks=blocks)


def takes_one_cut(function: Callable[..., jax.Array]) -> bool:
    """Whether `blocks` may be a single `Blocks`, by its annotation, for all passes.

    Raises:
      NotImplementedError: the function takes no `blocks`.
    """
    hints = typing.get_type_hints(function)
    if "blocks" not in hints:
        raise NotImplementedError(
            f"{getattr(function, '__name__', function)} takes no blocks; tune an "
            "implementation with the argument blocks."
        )
    return Blocks in (hints["blocks"], *typing.get_args(hints["blocks"]))


def _first_line(failure: Exception) -> str:
    return f"{type(failure).__name__}: {str(failure).strip().split(chr(10))[0]}"[:200]
