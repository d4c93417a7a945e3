"""The stack: a layer runs every task group, and runs of equal layers are scanned.

A layer loops over the groups with one set of weights; a routed group keeps its own
static number of tokens and pays only for those. Groups are never concatenated.
"""

import dataclasses

import jax
from flax import linen as nn

from unimod_jax import mod
from unimod_jax.layout import AttentionGeometry, TaskLayout
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.mot import BlockConfig, TransformerBlock, UntyingMap

type Hidden = dict[str, dict[str, jax.Array]]
"""Task -> stream -> [B, T, D]."""

type KeptReport = dict[str, dict[str, jax.Array]]
"""Routed task -> stream -> boolean [B, T]; stacked to [L, B, T] over a scanned run."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupGeometry:
    """The geometry of one task group's streams, with its static layout."""

    streams: dict[str, AttentionGeometry]
    layout: TaskLayout = dataclasses.field(metadata={"static": True})


class Layer(nn.Module):
    """One layer of the plan: a block, and a router and a gate per routed task."""

    config: BlockConfig
    untying: UntyingMap
    spec: mod.LayerSpec

    def setup(self) -> None:
        """Makes the block and each route's router and gate."""
        streams = tuple(stream.name for stream in self.untying.streams())
        self.block = TransformerBlock(self.config, self.untying)
        self.routers = {
            route.task: mod.TaskRouter(streams, self.config.width)
            for route in self.spec.routes
        }
        self.gates = {route.task: mod.CausalGate(streams) for route in self.spec.routes}

    def __call__(
        self, hidden: Hidden, geometry: dict[str, GroupGeometry]
    ) -> tuple[Hidden, KeptReport]:
        """Maps hidden states to hidden states, reporting which tokens were kept."""
        after: Hidden = {}
        report: KeptReport = {}
        for task, streams in hidden.items():
            route = self.spec.route_of(task)
            where = geometry[task]
            if route is None:
                delta = self.block(streams, where.streams)
            else:
                delta, report[task] = self._routed(streams, where, route)
            after[task] = {name: x + delta[name] for name, x in streams.items()}
        return after, report

    def _routed(
        self, streams: dict[str, jax.Array], where: GroupGeometry, route: mod.Route
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        score = self.routers[route.task](streams)
        selection = {
            name: self._select(name, score[name], where, route) for name in streams
        }
        weight = {name: mod.gentle_weight(score[name]) for name in streams}
        delta = mod.routed_delta(self.block, streams, where.streams, selection, weight)
        kept = {
            name: where.streams[name].position_BT >= 0
            if chosen is None
            else chosen.kept_BT
            for name, chosen in selection.items()
        }
        return delta, kept

    def _select(
        self, stream: str, score_BT: jax.Array, where: GroupGeometry, route: mod.Route
    ) -> mod.Selection | None:
        """Top-k where the whole stream is there at once, the causal gate elsewhere."""
        keep_ratio = route.keep_ratio_of(stream)
        if keep_ratio == 1.0:
            return None
        capacity = mod.capacity(keep_ratio, score_BT.shape[1])
        valid_BT = where.streams[stream].position_BT >= 0
        if not where.layout.is_causal(stream):
            return mod.select_top_k(score_BT, valid_BT, keep_ratio, capacity)
        gate = self.gates[route.task]
        threshold = gate.threshold(stream)
        gate.follow(stream, score_BT, valid_BT, keep_ratio)
        return mod.select_above(score_BT, valid_BT, threshold, capacity)


class Transformer(nn.Module):
    """All layers of a plan; equal neighbours are one scanned, rematerialised body."""

    config: BlockConfig
    untying: UntyingMap
    plan: mod.LayerPlan
    remat: bool = True

    @nn.compact
    def __call__(
        self, hidden: Hidden, geometry: dict[str, GroupGeometry]
    ) -> tuple[Hidden, list[KeptReport]]:
        """Runs the plan.

        Args:
          hidden: task -> stream -> [B, T, D].
          geometry: task -> geometry of the same tokens.

        Returns:
          Hidden states of the same shapes, and one report per run of the plan.
        """
        body = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
        reports = []
        for index, (spec, length) in enumerate(mod.runs(self.plan)):
            scanned = nn.scan(
                body,
                variable_axes={"params": 0, STATE: 0},
                split_rngs={"params": True},
                # Flax infers int from its default of 0; it documents nn.broadcast.
                in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
                length=length,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            run = scanned(self.config, self.untying, spec, name=f"run_{index}")
            hidden, report = run(hidden, geometry)
            reports.append(report)
        return hidden, reports
