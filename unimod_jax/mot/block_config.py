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

from unimod_jax.mot.feed_forward import FeedForwardKind, swiglu_width

NormOrder = Literal["pre", "swin", "parallel"]
NormKind = Literal["rms", "layer"]
QKNormKind = Literal["none", "rms", "layer", "layer_per_head"]


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Sizes and kinds of one block; the defaults are those of the toys.

    Attributes:
      width: D.
      num_heads: H.
      num_kv_heads: G, dividing H.
      head_dim: E, even.
      feed_forward: "swiglu" (Llama) or "gelu" (Phi).
      feed_forward_hidden: F, of each expert too; 0 follows Llama's rule
        (`swiglu_width`).
      norm: "rms" or "layer" (with a bias).
      norm_order: where norms stand, see `block.py`: "pre" (Llama), "swin" (after each
        branch, before it is added; Swin v2, Chameleon 34B, 2411.04996) or "parallel"
        (one norm, both branches from it; Phi-1.5).
      qk_norm: of queries and keys, per head, before rotary positions: "none", "rms",
        "layer" (one weight and bias for all heads) or "layer_per_head" (Chameleon).
      norm_epsilon: of every norm but that of `qk_norm`, which is fixed.
      biases: whether projections and feed-forward have biases (Phi).
      attention_dropout: share of attention probabilities dropped in training.
      residual_dropout: share dropped in training of what attention and feed-forward
        add.
    """

    width: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 32
    feed_forward: FeedForwardKind = "swiglu"
    feed_forward_hidden: int = 0
    norm: NormKind = "rms"
    norm_order: NormOrder = "pre"
    qk_norm: QKNormKind = "rms"
    norm_epsilon: float = 1e-5
    biases: bool = False
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Checks the heads, the choices and the dropout rates."""
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
                f"{self.num_kv_heads}; each key head serves equally many query heads."
            )
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
            check_dropped(field, getattr(self, field))

    @property
    def hidden(self) -> int:
        """F, as given or by Llama's rule."""
        return self.feed_forward_hidden or swiglu_width(self.width)

    @property
    def residual_scale(self) -> float:
        """Variance scale of the two projections that write to the residual stream."""
        return 1.0


def check_dropped(field: str, share: float) -> None:
    """Refuses a dropout rate that is no share.

    Raises:
      ValueError: naming the field.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(
            f"{field} {share} is no share of what is dropped; choose a number from 0 "
            "to below 1."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
    """Which feed-forward towers are experts, and how those choose their tokens.

    Attributes:
      expert_towers: feed-forward towers made of experts with expert choice; "shared"
        of a dense model is MoE-4x, "text" of an untied one is the hybrid. Names that a
        layer's map does not use do nothing there.
      num_experts: experts of each of those towers.
      rows_per_expert_group: rows whose tokens compete for an expert's places.
    """

    expert_towers: tuple[str, ...] = ()
    num_experts: int = 4
    rows_per_expert_group: int = 1


NO_EXPERTS = Experts()
"""One feed-forward network in each tower."""
