"""Where the two papers meet: one block, one attention, one transformer.

Reading order: `config`, `layer_design`, `layer`, `transformer` (scanned runs),
`parameter_path`, `embedding`,
`vocabulary_head`, `unified` (the whole model), `kv_cache`, `warm_start`, `accounting`
(parameters and FLOPs).
"""

from unimod_jax.models.accounting import count_parameters, training_flops
from unimod_jax.models.config import (
    MixtureOfDepths,
    MixtureOfTransformers,
    ModelConfig,
)
from unimod_jax.models.kv_cache import Caches, cache_bytes, empty_caches
from unimod_jax.models.layer import LayerReport, RoutingReport, by_layer
from unimod_jax.models.layer_design import LayerDesign
from unimod_jax.models.transformer import Transformer
from unimod_jax.models.unified import GroupOutput, ModelSpec, UnifiedModel
from unimod_jax.models.vocabulary_head import VocabularyMap
from unimod_jax.models.warm_start import warm_start

__all__ = [
    "Caches",
    "GroupOutput",
    "LayerDesign",
    "LayerReport",
    "MixtureOfDepths",
    "MixtureOfTransformers",
    "ModelConfig",
    "ModelSpec",
    "RoutingReport",
    "Transformer",
    "UnifiedModel",
    "VocabularyMap",
    "by_layer",
    "cache_bytes",
    "count_parameters",
    "empty_caches",
    "training_flops",
    "warm_start",
]
