"""What decoding costs: the caches, and routers that may not look ahead.

A routed layer caches only what it keeps. Where training chooses with a view of the
whole row, decoding chooses by another rule; the gap between the two is measured here on
held-out rows, as a share of tokens.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from unimod_jax.data import Record, first_rows
from unimod_jax.evaluation.trained_run import TrainedRun
from unimod_jax.mod.causal_gate import STATE
from unimod_jax.models import cache_bytes
from unimod_jax.objectives import router_loss
from unimod_jax.training import Assembly

ROWS_PER_TASK = 32
"""Rows of held-out records on which rules of choice are compared."""


@dataclasses.dataclass(frozen=True)
class DecodingCosts:
    """Caches and the selection gap of a run.

    Attributes:
      cache_bytes: task -> bytes of keys and values per row.
      dense_cache_bytes: the same of the dense twin.
      selection_gap: "layer_3/<task>/<stream>" -> share of tokens that training and
        decoding choose differently about; empty where one rule does both.
    """

    cache_bytes: dict[str, int]
    dense_cache_bytes: dict[str, int]
    selection_gap: dict[str, float]


def measure_decoding(trained: TrainedRun, records: Sequence[Record]) -> DecodingCosts:
    """Counts the caches and measures the gap on the first held-out records."""
    spec = trained.assembly.spec
    return DecodingCosts(
        cache_bytes=_bytes_of(trained.assembly),
        dense_cache_bytes=_bytes_of(Assembly(trained.experiment.dense_twin())),
        selection_gap=_selection_gap(trained, records)
        if spec.routing.causal_rule in ("trained_threshold", "predictor")
        else {},
    )


def _bytes_of(assembly: Assembly) -> dict[str, int]:
    """Task -> bytes per row, for the tasks that are decoded token by token."""
    return {
        task: cache_bytes(assembly.spec, layout)
        for task, layout in assembly.layouts.items()
        if any(layout.is_causal(name) for name in layout.stream_names)
    }


def _selection_gap(trained: TrainedRun, records: Sequence[Record]) -> dict[str, float]:
    experiment, layouts = trained.experiment, trained.assembly.layouts
    rows = dict.fromkeys(layouts, ROWS_PER_TASK)
    batch = first_rows(experiment.data, layouts, rows, records, trained.tokenizer)

    @jax.jit
    def gaps(variables: dict) -> dict[str, jax.Array]:
        # The state is mutable in training only: then both rules choose.
        (_, reports), _ = trained.model.apply(variables, batch, mutable=[STATE])
        return router_loss(reports, trained.assembly.spec.designs)[1]

    found = gaps(trained.variables)
    return {
        name.removeprefix("disagreement/"): float(np.asarray(gap))
        for name, gap in found.items()
    }
