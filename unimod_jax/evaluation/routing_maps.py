"""Which image positions the router of each layer and task keeps, over many rows.

Whole rows go through the model once, as in training: images that are written hidden or
noised by the objective, rows whose images are given as they are.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from unimod_jax.data import Record, RowTemplates, fill
from unimod_jax.evaluation.sampler import BATCH_SIZE, in_batches
from unimod_jax.evaluation.trained_run import TrainedRun
from unimod_jax.generation.text_decoder import without_line_ends
from unimod_jax.layout import (
    IMAGE,
    Document,
    SegmentSpec,
    TaskLayout,
    UnifiedBatch,
)
from unimod_jax.models import LayerDesign, LayerReport
from unimod_jax.models.parameter_path import run_layers


@dataclasses.dataclass(frozen=True, eq=False)
class RoutingMap:
    """How often one router kept each image token.

    Attributes:
      layer: index of the routed layer, from 0.
      task: whose router.
      share_N: float32 in [0, 1], the share of rows in which each image token was kept,
        in raster order (channels last, for codes of colour images).
    """

    layer: int
    task: str
    share_N: np.ndarray

    def picture(self, num_channels: int) -> np.ndarray:
        """The map as a square picture, averaged over the channels of a pixel."""
        side = round(np.sqrt(len(self.share_N)))
        if side * side != len(self.share_N):
            side = round(np.sqrt(len(self.share_N) // num_channels))
        return self.share_N.reshape(side, side, -1).mean(axis=-1)


def routing_maps(
    trained: TrainedRun,
    records: Sequence[Record],
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> list[RoutingMap]:
    """Maps of every routed layer and task that shows images.

    Args:
      trained: the run.
      records: held out; their images with codes where a tokenizer makes them.
      seed: of how images that are written are hidden or noised.
      batch_size: rows of each task that go through the model at once.

    Returns:
      By layer, then task; empty for a model without routed layers.
    """
    layouts = {
        task: layout
        for task, layout in trained.assembly.layouts.items()
        if isinstance(layout, TaskLayout)
        and sum(segment.modality == IMAGE for segment in layout.segments) == 1
        and any(design.route_of(task) for design in trained.assembly.spec.designs)
    }
    if not layouts or not len(records):
        return []
    templates = {task: RowTemplates(layouts[task]) for task in layouts}
    run_model, key = jax.jit(_kept_by(trained)), jax.random.key(seed)
    kept: dict[tuple[int, str], np.ndarray] = collections.defaultdict(
        lambda: np.zeros(trained.assembly.spec.image_tokens)
    )
    for index, (rows, num_rows) in enumerate(in_batches(records, batch_size)):
        batch = {
            task: templates[task].stack(
                [_fill(trained, task, record) for record in rows]
            )
            for task in layouts
        }
        batch_key = jax.random.fold_in(key, index)
        reports = run_model(trained.variables, batch, batch_key)
        count_kept(reports, batch, num_rows, trained.assembly.spec.designs, kept)
    maps = []
    for layer, task in sorted(kept):
        share_1N = jnp.asarray(kept[layer, task] / len(records), jnp.float32)[None]
        line_length = _image_of(layouts[task]).line_length
        codes_1N = without_line_ends(share_1N, line_length)
        maps.append(RoutingMap(layer, task, np.asarray(codes_1N[0])))
    return maps


def _image_of(layout: TaskLayout) -> SegmentSpec:
    return next(s for s in layout.segments if s.modality == IMAGE)


def _fill(trained: TrainedRun, task: str, record: Record) -> Document:
    data, tokenizer = trained.experiment.data, trained.tokenizer
    return fill(record, trained.layout(task), data, tokenizer)


def _kept_by(trained: TrainedRun):
    def kept(variables: dict, batch: UnifiedBatch, key: jax.Array) -> list[LayerReport]:
        seen, _ = trained.experiment.objective.corrupt(batch, key)
        written = {
            task: group
            for task, group in seen.items()
            if isinstance(group.layout, TaskLayout) and _image_of(group.layout).written
        }
        _, reports = trained.model.apply(variables, {**batch, **written})
        return cast(list[LayerReport], reports)

    return kept


def count_kept(
    reports: list[LayerReport],
    batch: UnifiedBatch,
    num_rows: int,
    designs: tuple[LayerDesign, ...],
    kept: dict[tuple[int, str], np.ndarray],
) -> None:
    """Adds the first num_rows rows of a batch to the counts per layer and task."""
    for layers, report in zip(run_layers(designs), reports, strict=True):
        for task, streams in report.items():
            for name, routing in streams.items():
                patch_index_BT = batch[task].streams[name].patch_index_BT[:num_rows]
                is_image_BT = patch_index_BT >= 0
                for offset, layer in enumerate(layers):
                    kept_BT = np.asarray(routing.kept_BT[offset])[:num_rows]
                    chosen = patch_index_BT[is_image_BT & kept_BT]
                    np.add.at(kept[layer, task], chosen, 1)
