"""Where the two papers meet: one block, one attention, one transformer.

Reading order: `config`, `transformer` (layers and scanned runs), `embedding`,
`unified` (the whole model), `accounting` (parameters and FLOPs).
"""

from unimod_jax.models.accounting import count_parameters, training_flops
from unimod_jax.models.config import MixtureOfDepths, MixtureOfTransformers, ModelConfig
from unimod_jax.models.transformer import Transformer
from unimod_jax.models.unified import GroupOutput, ModelSpec, UnifiedModel

__all__ = [
    "GroupOutput",
    "MixtureOfDepths",
    "MixtureOfTransformers",
    "ModelConfig",
    "ModelSpec",
    "Transformer",
    "UnifiedModel",
    "count_parameters",
    "training_flops",
]
