"""What a block is made of: sizes, norms, their order, and the feed-forward network.

The choices are those of the architectures that the papers build on:

    Chameleon 7B   pre       rms norms    qk norm layer_per_head   swiglu   dropout
    Chameleon 34B  swin      rms norms    qk norm layer_per_head   swiglu
    MoT            swin      rms norms    qk norm optional         swiglu
    Emu3           pre       rms norms    no qk norm               swiglu   dropout
    Show-o (Phi)   parallel  layer norms  qk norm layer            gelu     biases
"""

import dataclasses
import typing
from typing import Literal

from unimod_jax.mot.feed_forward import FeedForwardKind

NormOrder = Literal["pre", "swin", "parallel"]
NormKind = Literal["rms", "layer"]
QKNormKind = Literal["none", "rms", "layer", "layer_per_head"]


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Sizes and kinds of one block.

    Attributes:
      width: D.
      num_heads: H.
      num_kv_heads: G, dividing H.
      head_dim: E, even.
      feed_forward_hidden: F, of each expert too.
      norm_order: where norms stand, see `block.py`: "pre" (Llama), "swin" (after each
        branch; Swin v2, Chameleon 34B, 2411.04996) or "parallel" (one norm, both
        branches from it; Phi-1.5).
      norm: "rms" or "layer" (with bias).
      qk_norm: norm of each query and key head before rotary positions: "none", "rms",
        "layer" (one weight and bias for all heads) or "layer_per_head" (Chameleon).
      feed_forward: "swiglu" or "gelu".
      biases: whether all projections have biases.
      norm_epsilon: of the block's norms; that of `qk_norm` is fixed.
      residual_scale: variance scale of the two projections that write to the residual
        stream; 1 / (2 * layers) keeps its variance independent of depth (GPT-2).
      attention_dropout: share of attention probabilities dropped in training.
      residual_dropout: share of each branch's output dropped in training.
      num_experts: experts of each feed-forward tower that has any.
      expert_towers: feed-forward towers that are experts choosing their tokens; names
        that a layer's map does not use do nothing there.
      rows_per_expert_group: rows whose tokens compete for an expert.
    """

    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    feed_forward_hidden: int
    norm_order: NormOrder = "pre"
    norm: NormKind = "rms"
    qk_norm: QKNormKind = "rms"
    feed_forward: FeedForwardKind = "swiglu"
    biases: bool = False
    norm_epsilon: float = 1e-5
    residual_scale: float = 1.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    num_experts: int = 4
    expert_towers: tuple[str, ...] = ()
    rows_per_expert_group: int = 1

    def __post_init__(self) -> None:
        """Checks the choices and the dropout rates."""
        choices = {
            "norm_order": NormOrder,
            "norm": NormKind,
            "qk_norm": QKNormKind,
            "feed_forward": FeedForwardKind,
        }
        for field, kinds in choices.items():
            known = typing.get_args(kinds)
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} {getattr(self, field)!r} is not known; choose from "
                    f"{list(known)}."
                )
        for field in ("attention_dropout", "residual_dropout"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise ValueError(
                    f"{field} {getattr(self, field)} is no share of what is dropped; "
                    "choose a number from 0 to below 1."
                )
