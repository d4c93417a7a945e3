"""Where the two papers meet: one block, one attention, one transformer.

Reading order: `config`, `transformer` (layers and scanned runs), `embedding`,
`vocabulary_head`, `unified` (the whole model), `kv_cache`, `warm_start`, `accounting`
(parameters and FLOPs).
"""

from unimod_jax.models.accounting import count_parameters, training_flops
from unimod_jax.models.config import (
    MixtureOfDepths,
    MixtureOfTransformers,
    ModelConfig,
    TaskDepth,
)
from unimod_jax.models.kv_cache import Caches, cache_bytes, empty_caches
from unimod_jax.models.layer import LayerReport, RoutingReport
from unimod_jax.models.transformer import Transformer
from unimod_jax.models.unified import GroupOutput, ModelSpec, UnifiedModel
from unimod_jax.models.vocabulary_head import VocabularyMap
from unimod_jax.models.warm_start import warm_start

__all__ = [
    "Caches",
    "GroupOutput",
    "LayerReport",
    "MixtureOfDepths",
    "MixtureOfTransformers",
    "ModelConfig",
    "ModelSpec",
    "RoutingReport",
    "TaskDepth",
    "Transformer",
    "UnifiedModel",
    "VocabularyMap",
    "cache_bytes",
    "count_parameters",
    "empty_caches",
    "training_flops",
    "warm_start",
]
