"""What a trained run can do and what it costs: samples, accuracies, and a report.

Reading order: `trained_run` (a checkpoint, opened), `sampler`, `judged_rows` and
`transcription` (how good), `routing_maps` and `dense_twin` (what routing does, what it
saves), `measurement` (all of it), `summary`; `pictures`, `figures`, `report_sections`
and `report` (how it looks); `evaluate`.
"""

from unimod_jax.evaluation.dense_twin import (
    DenseTwinComparison,
    compare_with_dense_twin,
    realised_saving,
)
from unimod_jax.evaluation.evaluate import evaluate
from unimod_jax.evaluation.measurement import Limits
from unimod_jax.evaluation.pictures import check_writable, image_grid, write_png
from unimod_jax.evaluation.routing_maps import RoutingMap, routing_maps
from unimod_jax.evaluation.sampler import Sampler
from unimod_jax.evaluation.trained_run import TrainedRun, open_run

__all__ = [
    "DenseTwinComparison",
    "Limits",
    "RoutingMap",
    "Sampler",
    "TrainedRun",
    "check_writable",
    "compare_with_dense_twin",
    "evaluate",
    "image_grid",
    "open_run",
    "realised_saving",
    "routing_maps",
    "write_png",
]
