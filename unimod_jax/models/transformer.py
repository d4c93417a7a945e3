"""The stack: runs of alike layers are scanned.

Layers are alike when they have the same parameters: they may differ in keep ratios, as
those of a ramp do. Such a run is one scanned body too, in which each task whose ratio
changes switches among its capacities; everything else is compiled once.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from unimod_jax import mod
from unimod_jax.layout import RowLayout, Stream
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models.layer import (
    GroupGeometry,
    Hidden,
    Layer,
    LayerReport,
)
from unimod_jax.models.layer_design import LayerDesign, LayerRun, layer_runs
from unimod_jax.models.parameter_path import run_name
from unimod_jax.mot import (
    ATTENTION_RESULT,
    NO_EXPERTS,
    BlockConfig,
    Experts,
    LayerCache,
)

Remat = Literal["all", "all_but_results", "nothing"]
"""What of a layer the backward pass computes again, instead of storing it."""


def rematerialised(
    layer: type[Layer], remat: Remat, *, prevent_cse: bool
) -> type[Layer]:
    """The layer whose activations are computed again in the backward pass.

    Args:
      layer: the module.
      remat: how much of it.
      prevent_cse: whether the compiler might merge the two computations; it does not
        across the iterations of a scan.
    """
    if remat == "nothing":
        return layer
    policy = None
    if remat == "all_but_results":
        results = (ATTENTION_RESULT, mod.ROUTED_DELTA)
        policy = jax.checkpoint_policies.save_only_these_names(*results)
    return nn.remat(layer, prevent_cse=prevent_cse, policy=policy)


def most_kept(designs: LayerRun, geometry: Mapping[str, GroupGeometry]) -> float:
    """The largest share of its tokens that a task keeps in one of the layers."""
    shares = [
        _kept_share(design.route_of(task), where.layout)
        for task, where in geometry.items()
        for design in designs
    ]
    return max(shares, default=0.0)


def _kept_share(route: mod.Route | None, layout: RowLayout) -> float:
    if route is None:
        return 1.0
    if route.skips_layer:
        return 0.0
    names = layout.stream_names
    kept = sum(route.keep_ratio_of(name) * layout.num_tokens(name) for name in names)
    return kept / layout.row_length


class Transformer(nn.Module):
    """All layers; alike neighbours are one scanned, rematerialised body.

    Attributes:
      config: of every block.
      designs: one per layer.
      streams: how the whole model stores modalities.
      remat: what of each layer the backward pass computes again.
      remat_above: not of layers in which every task keeps at most this share.
      experts: which feed-forward towers are experts.
    """

    config: BlockConfig
    designs: tuple[LayerDesign, ...]
    streams: tuple[Stream, ...]
    remat: Remat = "all_but_results"
    remat_above: float = 0.0
    experts: Experts = NO_EXPERTS

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
          Hidden states of the same shapes; a report per run of alike layers; the caches
          after it.
        """
        if not caches:
            geometry = {
                task: where.in_attention_order() for task, where in geometry.items()
            }
        reports, left, after = [], list(caches or ()), []
        for index, designs in enumerate(layer_runs(self.designs)):
            name, pieces = run_name(index), mod.runs(designs)
            of_run, left = left[: len(pieces)], left[len(pieces) :]
            if of_run and len(pieces) > 1:
                hidden, report, of_run = self._cached_ramp(
                    name, designs, hidden, geometry, of_run
                )
            else:
                cache = of_run[0] if of_run else None
                run = self._scanned(name, designs, geometry)
                layers = jnp.arange(len(designs)) if len(pieces) > 1 else None
                hidden, (report, cache) = run(hidden, geometry, cache, layers)
                of_run = [cache]
            reports.append(report)
            after += of_run
        return hidden, reports, after

    def _scanned(
        self, name: str, designs: LayerRun, geometry: dict[str, GroupGeometry]
    ) -> nn.Module:
        """One body for a run of layers."""
        is_small = most_kept(designs, geometry) <= self.remat_above
        remat = "nothing" if is_small else self.remat
        # XLA unrolls the loop of a single layer and would then find that its second
        # computation repeats the first. Measured 2026-11-22 on CPU, six such runs: a
        # third of the temporary memory, 0.93 times the CPU seconds of a step.
        alone = len(designs) == 1
        scanned = nn.scan(
            rematerialised(Layer, remat, prevent_cse=alone),
            variable_axes={"params": 0, STATE: 0},
            split_rngs={"params": True, "dropout": True},
            # Flax infers int from its default of 0; it documents nn.broadcast.
            in_axes=(nn.broadcast, 0, 0),  # pyright: ignore[reportArgumentType]
            length=len(designs),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        ramp = designs if len(set(designs)) > 1 else ()
        return scanned(
            *(self.config, designs[0], self.streams, ramp, self.experts), name=name
        )

    def _cached_ramp(
        self,
        name: str,
        designs: LayerRun,
        hidden: Hidden,
        geometry: dict[str, GroupGeometry],
        caches: list[LayerCache | None],
    ) -> tuple[Hidden, LayerReport, list[LayerCache | None]]:
        """A ramp on caches, whose sizes differ: a body for each run of equal layers."""
        stacked = {kind: tree.get(name, {}) for kind, tree in self.variables.items()}
        reports, after, first = [], [], 0
        for (design, length), cache in zip(mod.runs(designs), caches, strict=True):
            layer = Layer(
                *(self.config, design, self.streams),
                experts=self.experts,
                parent=None,
            )

            def step(hidden: Hidden, scanned: tuple, layer: Layer = layer) -> tuple:
                variables, cache = scanned
                return layer.apply(variables, hidden, geometry, cache)

            own = jax.tree.map(lambda x, n=first, m=length: x[n : n + m], stacked)
            hidden, (report, cache) = jax.lax.scan(step, hidden, (own, cache))
            reports.append(report)
            after.append(cache)
            first += length
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *reports)
        return hidden, together, after
