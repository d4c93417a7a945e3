"""Mixture-of-Transformers (arXiv 2411.04996): parameters untied by modality.

Attention stays global over the whole row; every projection, norm and feed-forward
belongs to a *tower*, and an untying map says which modality uses which tower for which
component. A dense model is a MoT with one tower.
Reading order: `untying_map`, `towers`, `feed_forward`, `expert_choice`, `kv_cache`,
`attention`, `tensor_parallel`, `block_config`, `block`, `warm_start`.
"""

from unimod_jax.mot.attention import ATTENTION_RESULT
from unimod_jax.mot.block import TransformerBlock
from unimod_jax.mot.block_config import NO_EXPERTS, BlockConfig, Experts, check_dropped
from unimod_jax.mot.dropout import dropped_out
from unimod_jax.mot.expert_choice import ExpertChoice
from unimod_jax.mot.feed_forward import FeedForward, swiglu_width
from unimod_jax.mot.kv_cache import LayerCache
from unimod_jax.mot.towers import (
    Linear,
    Norm,
    Streams,
    Towers,
    layer_norm,
    project,
    rms_norm,
)
from unimod_jax.mot.untying_map import COMPONENTS, UntyingMap, common_streams
from unimod_jax.mot.warm_start import copy_towers

__all__ = [
    "ATTENTION_RESULT",
    "COMPONENTS",
    "NO_EXPERTS",
    "BlockConfig",
    "ExpertChoice",
    "Experts",
    "FeedForward",
    "LayerCache",
    "Linear",
    "Norm",
    "Streams",
    "Towers",
    "TransformerBlock",
    "UntyingMap",
    "check_dropped",
    "common_streams",
    "copy_towers",
    "dropped_out",
    "layer_norm",
    "project",
    "rms_norm",
    "swiglu_width",
]
