"""What a step is compiled with where the user leaves it open: mesh and parts.

An experiment says what is trained; how many chips there are says how. Whatever is
chosen here is printed as the options to train with, so nothing is hidden.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

from jax.sharding import Mesh

from experiments.compile_check.memory_estimate import estimate_activations
from unimod_jax.parallel import MeshConfig, make_mesh
from unimod_jax.parallel.fitting_mesh import TPU_LANES, fitting_mesh
from unimod_jax.parallel.topology import Topology
from unimod_jax.training import Assembly, Experiment
from unimod_jax.training.sharded_step import (
    abstract_state,
    bytes_on_one_device,
    placed_batch,
    placed_state,
)

_COMFORTABLE = {"tpu": 0.85, "gpu": 0.5, "cpu": 0.85}
"""Share of the memory that an estimate may fill. On GPUs it is too low for ramps of
capacities: Show-o with UniMoD in four parts on an H200 takes 128 GB where it says 71
(XLA of jax 0.12.0.1)."""


class Freedom(NamedTuple):
    """What may be chosen for the user.

    Attributes:
      mesh: data, fsdp and tensor, and whether the vocabulary is cut.
      parts: `training.accumulation_steps`.
    """

    mesh: bool
    parts: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step to compile.

    Attributes:
      experiment: with everything chosen.
      topology: the chips.
      mesh: over their devices.
      state: abstract, in boxes with logical axes.
      options: what was chosen, as options of the command line.
      quick: whether the compiler makes the least effort.
    """

    experiment: Experiment
    topology: Topology
    mesh: Mesh
    state: Any
    options: tuple[str, ...]
    quick: bool = False

    @functools.cached_property
    def assembly(self) -> Assembly:
        """What follows from the experiment."""
        return Assembly(self.experiment)

    @property
    def parts(self) -> int:
        """That a step's rows are taken in."""
        return self.experiment.training.accumulation_steps

    def bytes_of_arguments(self) -> dict[str, int]:
        """Bytes on one device of parameters, optimizer state and batch, exactly."""
        state = placed_state(self.state, self.mesh, self.experiment.sharding)
        return {
            "parameters": bytes_on_one_device(state.params),
            "optimizer": bytes_on_one_device(state.optimizer_state),
            "batch": bytes_on_one_device(placed_batch(self.assembly, self.mesh)),
        }

    def with_parts(self, parts: int) -> "Plan":
        """The same with another number of parts, chosen too."""
        training = dataclasses.replace(
            self.experiment.training, accumulation_steps=parts
        )
        name = "--training.accumulation_steps"
        others = tuple(option for option in self.options if not option.startswith(name))
        return dataclasses.replace(
            self,
            experiment=dataclasses.replace(self.experiment, training=training),
            options=(*others, f"{name} {parts}") if parts > 1 else others,
        )

    def possible_parts(self) -> list[int]:
        """All numbers of equal parts that keep rows on all devices, fewest first."""
        sizes = self.experiment.mesh
        of_device = [
            rows // (sizes.data * sizes.fsdp) for rows in self.assembly.rows.values()
        ]
        return [
            parts
            for parts in range(1, min(of_device) + 1)
            if all(rows % parts == 0 for rows in of_device)
        ]


def plan(
    experiment: Experiment, topology: Topology, free: Freedom, *, quick: bool = False
) -> Plan:
    """Chooses mesh and parts where they are free.

    The mesh is `parallel.fitting_mesh`'s. Parts are the fewest with which an estimate
    of the memory fits; the compiler has the last word (`check.compile_check`).

    Raises:
      ValueError: if no mesh divides the rows, or the experiment's needs more devices.
    """
    assembly = Assembly(experiment)
    state = abstract_state(assembly)
    if not free.mesh:
        mesh = make_mesh(experiment.mesh, topology.devices)
        named = Plan(experiment, topology, mesh, state, (), quick)
        return _with_fitting_parts(named)[0] if free.parts else named
    lanes = TPU_LANES if topology.chip.platform == "tpu" else 0
    chosen = _with_fitting_mesh(assembly, topology, state, lanes, quick)
    in_parts, fits = _with_fitting_parts(chosen)
    if lanes and not fits:
        # No copies of anything: narrow shares are better than none.
        chosen = _with_fitting_mesh(assembly, topology, state, 0, quick)
        in_parts, _ = _with_fitting_parts(chosen)
    return in_parts if free.parts else chosen


def _with_fitting_mesh(
    assembly: Assembly, topology: Topology, state: Any, least_share: int, quick: bool
) -> Plan:
    experiment, config = assembly.experiment, assembly.spec.config
    found = fitting_mesh(
        len(topology.devices),
        list(assembly.rows.values()),
        (config.num_heads, config.num_kv_heads),
        state,
        experiment.sharding,
        width=config.width,
        least_share=least_share,
    )
    options = tuple(
        f"--mesh.{axis} {size}"
        for axis, size in dataclasses.asdict(found.mesh).items()
        if size != getattr(MeshConfig(), axis)
    )
    if found.rules != experiment.sharding:
        options += ("--sharding.vocab None",)
    return Plan(
        dataclasses.replace(experiment, mesh=found.mesh, sharding=found.rules),
        topology,
        make_mesh(found.mesh, topology.devices),
        state,
        options,
        quick,
    )


def _with_fitting_parts(chosen: Plan) -> tuple[Plan, bool]:
    """The fewest parts whose estimated memory fits, else the most; and whether it does.

    Parts that do not keep rows on all devices are for the step to refuse.
    """
    topology = chosen.topology
    room = _COMFORTABLE[topology.chip.platform] * topology.hbm_bytes_per_device
    arguments = chosen.bytes_of_arguments()
    for parts in (possible := chosen.possible_parts()):
        gradients = arguments["parameters"] * (2 if parts > 1 else 1)
        estimate = estimate_activations(chosen.assembly, chosen.experiment.mesh, parts)
        if sum(arguments.values()) + gradients + estimate.total <= room:
            return chosen.with_parts(parts), True
    return (chosen.with_parts(possible[-1]) if possible else chosen), False


def replanned(chosen: Plan, experiment: Experiment) -> Plan | None:
    """The plan of a changed experiment; None if it does not divide over its mesh."""
    state = abstract_state(Assembly(experiment))
    try:
        mesh = make_mesh(experiment.mesh, chosen.topology.devices)
        placed_state(state, mesh, experiment.sharding)
    except ValueError:
        return None
    return dataclasses.replace(chosen, experiment=experiment, mesh=mesh, state=state)
