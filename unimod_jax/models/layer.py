"""One layer: a block over every task group, and for each routed task a choice.

A layer loops over the groups with one set of weights; a routed group keeps its own
static number of tokens and pays only for those. Groups are never concatenated.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax import mod
from unimod_jax.layout import (
    AttentionGeometry,
    RowLayout,
    SequenceOrder,
    Stream,
    sequence_order,
)
from unimod_jax.models.layer_design import LayerDesign, LayerRun
from unimod_jax.models.parameter_path import run_layers
from unimod_jax.mot import (
    NO_EXPERTS,
    BlockConfig,
    Experts,
    LayerCache,
    TransformerBlock,
)
from unimod_jax.parallel import constrain

type Hidden = dict[str, dict[str, jax.Array]]
"""Task -> stream -> [B, T, D]."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupGeometry:
    """The geometry of one task group's streams, with its static layout.

    Attributes:
      streams: stream -> geometry of its tokens.
      layout: static.
      order: of all these tokens, where attention reads them in sequence order; None
        where it reads them as they are stored.
    """

    streams: dict[str, AttentionGeometry]
    layout: RowLayout = dataclasses.field(metadata={"static": True})
    order: SequenceOrder | None = None

    def in_attention_order(self) -> "GroupGeometry":
        """The same with the order that the layout chose: once for all layers."""
        if self.layout.attention_order.name == "storage":
            return self
        return dataclasses.replace(self, order=sequence_order(self.streams))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RoutingReport:
    """What a routed layer did with one stream; stacked to [L, ...] over a run.

    Attributes:
      kept_BT: boolean, which tokens the layer processed.
      auxiliary_loss: float32 scalar, of the rule that chooses when decoding.
      disagreement: float32 scalar, share of tokens that rule would choose otherwise.
    """

    kept_BT: jax.Array
    auxiliary_loss: jax.Array
    disagreement: jax.Array


type LayerReport = dict[str, dict[str, RoutingReport]]
"""Routed task -> stream -> report."""


def by_layer(
    reports: Sequence[LayerReport],
    designs: LayerRun,
    measured: Callable[[str, str, RoutingReport], jax.Array],
) -> dict[str, jax.Array]:
    """A measure of what routed layers did: "layer_3/<task>/<stream>" -> scalar.

    Args:
      reports: one per run of alike layers, stacked over them.
      designs: of all layers.
      measured: (task, stream, stacked report) -> float32 [L], one number per layer.
    """
    found = {}
    for layers, report in zip(run_layers(designs), reports, strict=True):
        for task, streams in report.items():
            for stream, routing in streams.items():
                measure_L = measured(task, stream, routing)
                for n, layer in enumerate(layers):
                    found[f"layer_{layer}/{task}/{stream}"] = measure_L[n]
    return found


class Layer(nn.Module):
    """One layer: a block, and for each routed task a choice of tokens.

    Attributes:
      config: of the block.
      design: what is routed and what is untied.
      streams: how the whole model stores modalities.
      ramp: the designs of all layers that this one body stands for, where they
        differ; the call says which of them it is.
      experts: which feed-forward towers are experts.
    """

    config: BlockConfig
    design: LayerDesign
    streams: tuple[Stream, ...]
    ramp: LayerRun = ()
    experts: Experts = NO_EXPERTS

    def setup(self) -> None:
        """Makes the block, the routers (tasks may share one) and the choices."""
        names, width = tuple(s.name for s in self.streams), self.config.width
        self.block = TransformerBlock(
            self.config, self.design.untying, self.streams, self.experts
        )
        routes = [r for r in self.design.routes if not r.skips_layer]
        self.routers = {
            route.router_name: mod.TaskRouter(names, width)
            for route in routes
            if route.scorer == "linear"
        }
        self.choices = {
            route.task: mod.TokenChoice(
                route, names, width, self.routers.get(route.router_name)
            )
            for route in routes
        }

    def __call__(
        self,
        hidden: Hidden,
        geometry: dict[str, GroupGeometry],
        cache: LayerCache | None = None,
        layer: jax.Array | None = None,
    ) -> tuple[Hidden, tuple[LayerReport, LayerCache | None]]:
        """Maps hidden states to hidden states.

        Args:
          hidden: task -> stream -> [B, T, D].
          geometry: task -> geometry of the same tokens.
          cache: keys and values of earlier tokens of the one task there is, or None.
          layer: int32 scalar, which layer of the ramp this is; None without one.

        Returns:
          (hidden states, (what the routes did, the cache with this layer's tokens)).
        """
        after: Hidden = {}
        report: LayerReport = {}
        for task, streams in hidden.items():
            route = self.design.route_of(task)
            where = geometry[task]
            if route is None:
                delta, cache = self.block(streams, where.streams, cache, where.order)
            elif route.skips_layer:
                after[task] = streams
                continue
            else:
                if layer is None or len(_ratios(self.ramp, task)) == 1:
                    outcome, cache = self._routed(streams, where, route, cache)
                else:
                    outcome = self._switched(streams, where, task, layer)
                delta = mod.weighted(outcome.delta, outcome.weight)
                report[task] = outcome.report
            after[task] = {
                name: constrain(x + delta[name], "batch", "token", None)
                for name, x in streams.items()
            }
        return after, (report, cache)

    def _switched(
        self,
        streams: dict[str, jax.Array],
        where: GroupGeometry,
        task: str,
        layer: jax.Array,
    ) -> "_Outcome":
        """Runs the task with the capacity of one layer of the ramp.

        A branch per capacity, with shapes of its own inside. Branches are always
        rematerialised: what one saved for its backward pass, all would have to save.
        """
        routes = _ratios(self.ramp, task)

        def branch(route: mod.Route) -> Callable:
            def run(layer: Layer, streams: dict, where: GroupGeometry) -> _Outcome:
                layer.choices[task].stay()
                return layer._routed(streams, where, route, None)[0]

            return nn.remat(run, prevent_cse=False)

        if self.is_initializing():
            return branch(routes[0])(self, streams, where)
        of_layer_L = [routes.index(_route(design, task)) for design in self.ramp]
        chosen = jnp.asarray(of_layer_L, jnp.int32)[layer]
        return nn.switch(chosen, list(map(branch, routes)), self, streams, where)

    def _routed(
        self,
        streams: dict[str, jax.Array],
        where: GroupGeometry,
        route: mod.Route,
        cache: LayerCache | None,
    ) -> tuple["_Outcome", LayerCache | None]:
        received = None
        if route.scorer == "attention":
            received = self.block.attention_received(streams, where.streams)
        chosen = self.choices[route.task](
            streams,
            where.streams,
            causal={name: where.layout.is_causal(name) for name in streams},
            num_slots={name: where.layout.num_tokens(name) for name in streams},
            room=None
            if cache is None
            else {name: cache.room(name) for name in streams},
            received=received,
            route=route,
        )
        in_order = where.order is not None
        delta, cache = mod.routed_delta(
            # The kept tokens have an order of their own.
            lambda kept, at: self.block(
                kept, at, cache, sequence_order(at) if in_order else None
            ),
            streams,
            where.streams,
            chosen,
        )
        report = {
            name: RoutingReport(c.kept_BT, c.auxiliary_loss, c.disagreement)
            for name, c in chosen.items()
        }
        weight = {name: c.weight_BT for name, c in chosen.items()}
        return _Outcome(delta, weight, report), cache


class _Outcome(NamedTuple):
    """What a routed layer did with one task, before its deltas are weighted."""

    delta: dict[str, jax.Array]
    weight: dict[str, jax.Array]
    report: dict[str, RoutingReport]


def _route(design: LayerDesign, task: str) -> mod.Route:
    route = design.route_of(task)
    assert route is not None, "layers of one run route the same tasks"
    return route


def _ratios(ramp: LayerRun, task: str) -> tuple[mod.Route, ...]:
    """The task's routes in the layers of a ramp, each once, in their order."""
    return tuple(dict.fromkeys(_route(design, task) for design in ramp))
