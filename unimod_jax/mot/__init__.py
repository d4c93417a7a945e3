"""Mixture-of-Transformers (arXiv 2411.04996): parameters untied by modality.

Attention stays global over the whole row; every projection, norm and feed-forward
belongs to a *tower*, and an untying map says which modality uses which tower for which
component. A dense model is a MoT with one tower.
Reading order: `untying_map`, `towers`, `attention`, `feed_forward`, `block`.
"""

from unimod_jax.mot.block import BlockConfig, TransformerBlock
from unimod_jax.mot.feed_forward import swiglu_width
from unimod_jax.mot.towers import TowerLinear, TowerNorm
from unimod_jax.mot.untying_map import COMPONENTS, UntyingMap

__all__ = [
    "COMPONENTS",
    "BlockConfig",
    "TowerLinear",
    "TowerNorm",
    "TransformerBlock",
    "UntyingMap",
    "swiglu_width",
]
