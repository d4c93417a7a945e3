"""The three models that are compared with PyTorch: a small Chameleon in each variant.

As released (2405.09818): norms before each branch, query and key norms per head,
SwiGLU, rotary positions, full causal rows of a prompt and an image's codes. Dropout,
the z-loss and the warm-up are left out; every token counts the same.
"""

import dataclasses
from typing import NamedTuple

from experiments.published import published, with_grey_images
from unimod_jax.layout import next_token_tasks, shared
from unimod_jax.mod import last_half, same_for
from unimod_jax.models import MixtureOfDepths, MixtureOfTransformers
from unimod_jax.models.config import DENSE
from unimod_jax.objectives import NextToken
from unimod_jax.training import Experiment

SYSTEMS: dict[str, tuple[MixtureOfTransformers, MixtureOfDepths]] = {
    "dense": DENSE,
    "mot": (MixtureOfTransformers(), DENSE[1]),
    # Top-k, the papers' rule, so that both sides keep the same tokens; 0.2 is what the
    # last layers keep in Show-o (2502.06474, section 5.1).
    "mod": (
        DENSE[0],
        MixtureOfDepths(
            same_for(("text_to_image",), last_half(12, 0.2)), causal_rule="top_k"
        ),
    ),
}
"""Name -> towers and routing, at a depth of twelve layers."""


class PeerSizes(NamedTuple):
    """What is smaller than in the released Chameleon 7B, and at which dtype."""

    width: int
    num_layers: int
    num_heads: int
    head_dim: int
    hidden: int
    vocabulary_size: int
    image_side: int
    caption_tokens: int
    rows: int
    compute_dtype: str = "float32"


SIZES = {
    # 2 x 1,152 tokens, 1,024 of each row image codes: about a second a step.
    "cpu": PeerSizes(256, 6, 4, 64, 704, 4096, 32, 125, 2),
    # 4 x 2,048 tokens; 0.7 billion parameters dense, 1.4 with towers.
    "gpu": PeerSizes(2048, 12, 16, 128, 5632, 32_768, 32, 1021, 4, "bfloat16"),
    "quick": PeerSizes(32, 2, 2, 16, 96, 512, 4, 13, 2),
}


def peer_experiment(system: str, sizes: PeerSizes) -> Experiment:
    """A small released Chameleon 7B without dropout, as one of `SYSTEMS`."""
    base = published("chameleon_7b_released", "dense")
    towers, routing = SYSTEMS[system]
    routing = routing.at_depth(sizes.num_layers)
    model = dataclasses.replace(
        base.model,
        width=sizes.width,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_heads,
        head_dim=sizes.head_dim,
        feed_forward_hidden=sizes.hidden,
        vocabulary_size=sizes.vocabulary_size,
        compute_dtype=sizes.compute_dtype,
        residual_dropout=0.0,
        image_positions=False,
    )
    data = dataclasses.replace(
        with_grey_images(base.data, sizes.image_side),
        caption_tokens=sizes.caption_tokens,
        batch_size=sizes.rows,
        text_vocabulary_size=sizes.vocabulary_size // 4,
    )
    training = dataclasses.replace(base.training, warmup_steps=0, schedule="constant")
    return Experiment(
        objective=NextToken(image_weight=1.0),
        model=model,
        mot=towers,
        mod=routing,
        data=data,
        tasks=shared(next_token_tasks(), text_to_image=1),
        training=training,
    )
