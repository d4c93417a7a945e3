"""Which option would make a step fit that does not.

Options are tried from the cheapest to the dearest: sharing the state among more
devices costs links, parts cost nothing but smaller products, recomputation costs a
third more FLOPs, a short momentum costs digits, and more chips cost money. Arithmetic
on the bytes of the step at hand chooses; the compiler is asked where that is quick.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

from experiments.compile_check.memory_estimate import estimate_activations
from experiments.compile_check.plan import Plan, replanned
from experiments.compile_check.report import Remedy, Report

_QUICK_SECONDS = 60.0
_MOST_TIMES_CHIPS = 2**12


class _Candidate(NamedTuple):
    """An option, the bytes of one chip that arithmetic gives, and how to compile it."""

    option: str
    bytes_needed: float
    plan: Plan | None


def find_remedy(
    chosen: Plan, report: Report, measure: Callable[[Plan], Report]
) -> Remedy | None:
    """The first option that makes the step fit; None if nothing here does.

    Args:
      chosen: what was compiled.
      report: on it; it does not fit.
      measure: compiles another plan. It is asked once, and only if the step that does
        not fit compiled within a minute.
    """
    may_compile = report.compile_seconds <= _QUICK_SECONDS
    for option, bytes_needed, plan in _candidates(chosen, report):
        if bytes_needed > report.usable_bytes_per_chip:
            continue
        if plan is None or not may_compile:
            return Remedy(option, round(bytes_needed), is_compiled=False)
        found, may_compile = measure(plan), False
        if found.fits:
            return Remedy(option, found.bytes_per_chip["total"], is_compiled=True)
    return None


def _candidates(chosen: Plan, report: Report) -> Iterator[_Candidate]:
    """All options in the order of their price."""
    experiment, memory = chosen.experiment, report.bytes_per_chip
    total, activations = memory["total"], memory["activations"]
    state = memory["parameters"] + memory["optimizer"]
    sizes, training = experiment.mesh, experiment.training
    if sizes.data > 1:
        mesh = dataclasses.replace(sizes, data=1, fsdp=sizes.data * sizes.fsdp)
        yield _Candidate(
            f"--mesh.data 1 --mesh.fsdp {mesh.fsdp}",
            total - state * (1 - 1 / sizes.data),
            replanned(chosen, dataclasses.replace(experiment, mesh=mesh)),
        )
    for parts in chosen.possible_parts():
        if parts > chosen.parts:
            gradients = memory["parameters"] if chosen.parts == 1 else 0
            yield _Candidate(
                f"--training.accumulation_steps {parts}",
                total - activations * (1 - chosen.parts / parts) + gradients,
                chosen.with_parts(parts),
            )
    if experiment.model.remat != "all":
        model = dataclasses.replace(experiment.model, remat="all")
        yield _Candidate(
            "--model.remat all",
            total - activations * (1 - _share_with_full_remat(chosen)),
            replanned(chosen, dataclasses.replace(experiment, model=model)),
        )
    if training.momentum_dtype != "bfloat16":
        short = dataclasses.replace(training, momentum_dtype="bfloat16")
        yield _Candidate(
            "--training.momentum_dtype bfloat16",
            total - memory["optimizer"] / 4,
            replanned(chosen, dataclasses.replace(experiment, training=short)),
        )
    times = 2
    while times <= _MOST_TIMES_CHIPS:
        yield _Candidate(f"{times * report.num_chips} chips", total / times, None)
        times *= 2


def _share_with_full_remat(chosen: Plan) -> float:
    """What is left of activations when everything is computed again: an estimate."""
    mesh, parts = chosen.experiment.mesh, chosen.parts
    now = estimate_activations(chosen.assembly, mesh, parts)
    then = estimate_activations(chosen.assembly, mesh, parts, remat="all")
    return then.total / now.total
