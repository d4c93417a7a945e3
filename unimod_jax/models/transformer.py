"""The stack: a layer runs every task group, and runs of equal layers are scanned.

A layer loops over the groups with one set of weights; a routed group keeps its own
static number of tokens and pays only for those. Groups are never concatenated.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
from flax import linen as nn

from unimod_jax import mod
from unimod_jax.layout import (
    AttentionGeometry,
    RowLayout,
    SequenceOrder,
    Stream,
    sequence_order,
)
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.mot import (
    ATTENTION_RESULT,
    BlockConfig,
    LayerCache,
    TransformerBlock,
    UntyingMap,
)

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


@dataclasses.dataclass(frozen=True)
class LayerDesign:
    """One layer: what it routes, and what it unties."""

    routing: mod.LayerSpec
    untying: UntyingMap


class Layer(nn.Module):
    """One layer: a block, and for each routed task a choice of tokens.

    Attributes:
      config: of the block.
      design: what is routed and what is untied.
      streams: how the whole model stores modalities.
    """

    config: BlockConfig
    design: LayerDesign
    streams: tuple[Stream, ...]

    def setup(self) -> None:
        """Makes the block, the routers (tasks may share one) and the choices."""
        names, width = tuple(s.name for s in self.streams), self.config.width
        self.block = TransformerBlock(self.config, self.design.untying, self.streams)
        routes = [r for r in self.design.routing.routes if not r.skips_layer]
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
    ) -> tuple[Hidden, tuple[LayerReport, LayerCache | None]]:
        """Maps hidden states to hidden states.

        Args:
          hidden: task -> stream -> [B, T, D].
          geometry: task -> geometry of the same tokens.
          cache: keys and values of earlier tokens of the one task there is, or None.

        Returns:
          (hidden states, (what the routes did, the cache with this layer's tokens)).
        """
        after: Hidden = {}
        report: LayerReport = {}
        for task, streams in hidden.items():
            route = self.design.routing.route_of(task)
            where = geometry[task]
            if route is None:
                delta, cache = self.block(streams, where.streams, cache, where.order)
            elif route.skips_layer:
                after[task] = streams
                continue
            else:
                delta, report[task], cache = self._routed(streams, where, route, cache)
            after[task] = {name: x + delta[name] for name, x in streams.items()}
        return after, (report, cache)

    def _routed(
        self,
        streams: dict[str, jax.Array],
        where: GroupGeometry,
        route: mod.Route,
        cache: LayerCache | None,
    ) -> tuple[dict[str, jax.Array], dict[str, RoutingReport], LayerCache | None]:
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
        return delta, report, cache


Remat = Literal["all", "all_but_attention", "nothing"]

REMAT: dict[Remat, Callable[[type[Layer]], type[Layer]]] = {
    # A scanned body is not merged with its other computation: no barrier is needed.
    "all": functools.partial(nn.remat, prevent_cse=False),
    "all_but_attention": functools.partial(
        nn.remat,
        prevent_cse=False,
        policy=jax.checkpoint_policies.save_only_these_names(ATTENTION_RESULT),
    ),
    "nothing": lambda layer: layer,
}
"""What the backward pass computes again -> the layer that does so."""


class Transformer(nn.Module):
    """All layers; equal neighbours are one scanned, rematerialised body.

    Attributes:
      config: of every block.
      designs: one per layer.
      streams: how the whole model stores modalities.
      remat: what of each layer the backward pass computes again; a key of `REMAT`.
    """

    config: BlockConfig
    designs: tuple[LayerDesign, ...]
    streams: tuple[Stream, ...]
    remat: Remat = "all_but_attention"

    @nn.compact
    def __call__(
        self,
        hidden: Hidden,
        geometry: dict[str, GroupGeometry],
        caches: list[LayerCache | None] | None = None,
    ) -> tuple[Hidden, list[LayerReport], list[LayerCache | None]]:
        """Runs all layers.

        Args:
          hidden: task -> stream -> [B, T, D].
          geometry: task -> geometry of the same tokens.
          caches: one per run of equal layers, stacked over its layers, as made by
            `models.kv_cache`; None where nothing is cached.

        Returns:
          Hidden states of the same shapes; a report per run; the caches after it.
        """
        if not caches:
            geometry = {
                task: where.in_attention_order() for task, where in geometry.items()
            }
        body = REMAT[self.remat](Layer)
        reports, after = [], []
        for index, (design, length) in enumerate(mod.runs(self.designs)):
            scanned = nn.scan(
                body,
                variable_axes={"params": 0, STATE: 0},
                split_rngs={"params": True, "dropout": True},
                # Flax infers int from its default of 0; it documents nn.broadcast.
                in_axes=(nn.broadcast, 0),  # pyright: ignore[reportArgumentType]
                length=length,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            run = scanned(self.config, design, self.streams, name=f"run_{index}")
            cache = caches[index] if caches else None
            hidden, (report, cache) = run(hidden, geometry, cache)
            reports.append(report)
            after.append(cache)
        return hidden, reports, after
