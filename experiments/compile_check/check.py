"""The training step of an experiment, compiled for a topology and measured.

Memory is the compiler's own account (`memory_analysis`) and collectives are read from
its program. FLOPs are the model's (`models.accounting`, `with_head`: matrix products
of forward and backward pass, attention over all pairs, routed layers with the tokens
they keep): what is computed again, norms, and the optimizer count as nothing.
"""

import dataclasses
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.compile_check.plan import Freedom, Plan, plan
from experiments.compile_check.remedies import find_remedy
from experiments.compile_check.report import Report
from unimod_jax.models.accounting import TRAINING_OVER_FORWARD
from unimod_jax.parallel.collectives import collective_bytes
from unimod_jax.parallel.roofline import ChipWork, Roofline
from unimod_jax.parallel.topology import Topology
from unimod_jax.training import Experiment
from unimod_jax.training.prepared_step import compile_step
from unimod_jax.training.sharded_step import placed_batch, placed_state

_MOST_ATTEMPTS = 3
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class _Compiled(NamedTuple):
    """What the compiler said.

    Attributes:
      needed_bytes: of one device, all told.
      temporary_bytes: of them, what is no argument.
      program: text of the program; "" where the compiler refused it.
      seconds: trace and compilation.
    """

    needed_bytes: int
    temporary_bytes: int
    program: str
    seconds: float


def compile_check(
    name: str,
    experiment: Experiment,
    topology: Topology,
    free: Freedom,
    *,
    quick: bool = False,
    with_remedy: bool = True,
) -> Report:
    """Compiles the step of an experiment; nothing is allocated and nothing runs.

    Args:
      name: of the experiment, for the report.
      experiment: what to train.
      topology: on which chips.
      free: what may be chosen. Where parts are free and the first choice does not fit,
        more parts are tried.
      quick: whether the compiler makes the least effort (`Topology.compiler_options`).
      with_remedy: whether to look for an option that makes it fit, if it does not.

    Raises:
      ValueError: for rows or parameters that do not divide over the mesh.
    """
    chosen = plan(experiment, topology, free, quick=quick)
    for _ in range(_MOST_ATTEMPTS):
        report = measure(name, chosen)
        more = _more_parts(chosen, report) if free.parts else None
        if report.fits or more is None:
            break
        chosen = more
    if report.fits or not with_remedy:
        return report
    remedy = find_remedy(chosen, report, lambda other: measure(name, other))
    return dataclasses.replace(report, remedy=remedy)


def _more_parts(chosen: Plan, report: Report) -> Plan | None:
    """The fewest parts that arithmetic says suffice; the most if none does."""
    more = [parts for parts in chosen.possible_parts() if parts > chosen.parts]
    if not more:
        return None
    memory, scale = report.bytes_per_chip, chosen.parts
    fixed = memory["total"] - memory["activations"]
    room = report.usable_bytes_per_chip - fixed
    enough = [n for n in more if memory["activations"] * scale / n <= room]
    return chosen.with_parts(enough[0] if enough else more[-1])


def measure(name: str, chosen: Plan) -> Report:
    """Compiles a plan as it is and reports on it."""
    compiled = _compile(chosen)
    chip, topology = chosen.topology.chip, chosen.topology
    per_chip = chip.devices_per_chip
    arguments = chosen.bytes_of_arguments()
    memory = arguments | {
        "activations": compiled.needed_bytes - sum(arguments.values()),
        "total": compiled.needed_bytes,
    }
    assembly = chosen.assembly
    flops = assembly.flops_per_step
    sent, roofline = None, None
    if compiled.program:
        of_device = collective_bytes(compiled.program, len(topology.devices))
        sent = {kind: size * per_chip for kind, size in of_device.items()}
        work = _work(chosen, compiled, arguments, flops, sum(sent.values()))
        roofline = Roofline(work, chip, topology.num_chips)
    usable = topology.hbm_bytes_per_device
    return Report(
        experiment=name,
        topology=topology.name,
        num_chips=topology.num_chips,
        mesh=dict(chosen.mesh.shape),
        accumulation_steps=chosen.parts,
        options=chosen.options,
        quick=chosen.quick,
        hbm_bytes_per_chip=chip.hbm_bytes,
        usable_bytes_per_chip=usable * per_chip,
        bytes_per_chip={part: size * per_chip for part, size in memory.items()},
        flops_per_chip=flops / topology.num_chips,
        collective_bytes_per_chip=sent,
        roofline=roofline,
        fits=bool(compiled.program) and compiled.needed_bytes <= usable,
        compile_seconds=compiled.seconds,
    )


def _compile(chosen: Plan) -> _Compiled:
    start = time.perf_counter()
    rules = chosen.experiment.sharding
    try:
        step = compile_step(
            chosen.assembly,
            chosen.mesh,
            placed_state(chosen.state, chosen.mesh, rules),
            placed_batch(chosen.assembly, chosen.mesh),
            chosen.topology.compiler_options(quick=chosen.quick),
        )
    except jax.errors.JaxRuntimeError as error:
        arguments = sum(chosen.bytes_of_arguments().values())
        needed = refused_bytes(str(error), arguments)
        if needed is None:
            raise
        return _Compiled(needed, needed, "", time.perf_counter() - start)
    text = step.program.as_text() or ""
    return _Compiled(step.needed_bytes, step.temporary_bytes, text, step.seconds)


def refused_bytes(message: str, argument_bytes: int) -> int | None:
    """The bytes that a TPU's compiler wanted when it refused; None for other errors.

    Args:
      message: of the error. It names everything, or temporaries alone.
      argument_bytes: of state and batch on one device.
    """
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    number = r"([\d.]+)([KMGT]?)"
    if found := re.search(rf"Used {number} of [\d.]+[KMGT]? hbm", message):
        return round(float(found[1]) * _UNITS[found[2]])
    if found := re.search(rf"HLO temporaries \({number}\) exceeds avail", message):
        return argument_bytes + round(float(found[1]) * _UNITS[found[2]])
    return None


def _work(
    chosen: Plan,
    compiled: _Compiled,
    arguments: dict[str, int],
    flops: float,
    sent: float,
) -> ChipWork:
    """What a chip does in a step; FLOPs are given for all chips.

    Executed FLOPs: recomputation adds a forward pass, at most. Memory: the state is
    read and written once, every temporary once for each part, gradients are written and
    read for each part, and each pass over the layers (forward, recomputation, backward)
    reads all weights of its share of the heads in the compute dtype.
    """
    assembly, config = chosen.assembly, chosen.assembly.spec.config
    again = 0 if config.remat == "nothing" else 1
    per_chip = chosen.topology.chip.devices_per_chip
    flops /= chosen.topology.num_chips
    parameters = arguments["parameters"]
    shrunk = jnp.dtype(config.compute_dtype).itemsize / jnp.dtype("float32").itemsize
    gathered = parameters * chosen.experiment.mesh.fsdp * shrunk
    moved = 2 * (parameters + arguments["optimizer"]) + chosen.parts * (
        2 * parameters + 2 * compiled.temporary_bytes + (2 + again) * gathered
    )
    return ChipWork(
        useful_flops=flops,
        executed_flops=flops * (TRAINING_OVER_FORWARD + again) / TRAINING_OVER_FORWARD,
        hbm_bytes=moved * per_chip,
        collective_bytes=sent,
        tokens=assembly.tokens_per_step / chosen.topology.num_chips,
    )
